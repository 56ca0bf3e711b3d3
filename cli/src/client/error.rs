//! What can go wrong between us and the coordinator, in words, and which exit code it is.

use std::time::Duration;

use bramble_contracts::problem::{Code, FieldError, Problem};

use crate::exit::Exit;

/// A request that did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nothing to show who we are.
    #[error("no token: run `bramble login`, or give BRAMBLE_TOKEN")]
    NoToken,
    /// It could not even be sent.
    #[error("the request cannot be made: {why}")]
    Unsendable {
        /// Why.
        why: String,
    },
    /// No connection, or it broke before an answer.
    #[error(
        "cannot reach the coordinator at {api}: {why}\n  Is it running and is the address right? `bramble doctor` looks closer."
    )]
    Unreachable {
        /// Where.
        api: String,
        /// Why.
        why: String,
    },
    /// It answers, and may be somebody else.
    #[error(
        "the certificate of {api} is not trusted: {why}\n  Give the fleet's CA certificates by --ca FILE, once and for all by `bramble login --ca FILE`."
    )]
    Untrusted {
        /// Where.
        api: String,
        /// Why.
        why: String,
    },
    /// Connected, and nothing came.
    #[error("the coordinator at {api} was silent for {} s: ask again, or look at its log", after.as_secs())]
    Silent {
        /// Where.
        api: String,
        /// For so long.
        after: Duration,
    },
    /// An answer that broke off.
    #[error("the answer of the coordinator at {api} broke off ({why}): ask again")]
    Broken {
        /// Where.
        api: String,
        /// How.
        why: String,
    },
    /// An answer that is not a coordinator's.
    #[error(
        "{api} answered with status {status} and not as a coordinator does: is the address right, and no proxy in between?"
    )]
    Strange {
        /// Where.
        api: String,
        /// What.
        status: u16,
    },
    /// A success that cannot be read.
    #[error(
        "the answer of the coordinator at {api} cannot be read: {why}\n  Are bramble and the coordinator of one version? `bramble doctor` compares them."
    )]
    Unreadable {
        /// Where.
        api: String,
        /// Why.
        why: String,
    },
    /// An error that it explains itself.
    #[error("{}", told(.0))]
    Refused(Box<Problem>),
}

impl ClientError {
    /// The exit code that belongs to it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::NoToken => Exit::NotAllowed,
            Self::Unreachable { .. } | Self::Untrusted { .. } | Self::Silent { .. } | Self::Broken { .. } => {
                Exit::Unreachable
            }
            Self::Unsendable { .. } | Self::Unreadable { .. } => Exit::Failed,
            Self::Strange { status, .. } => match status {
                401 | 403 => Exit::NotAllowed,
                502..=504 => Exit::Unreachable,
                0..=400 | 402 | 404..=501 | 505.. => Exit::Failed,
            },
            Self::Refused(problem) => match problem.code {
                Code::Unauthenticated | Code::Forbidden => Exit::NotAllowed,
                Code::NotFound => Exit::NotFound,
                Code::Conflict | Code::PreconditionFailed => Exit::Conflict,
                Code::Recovering | Code::Unavailable | Code::DeviceUnreachable => Exit::Unreachable,
                Code::Timeout => Exit::TimedOut,
                Code::BadRequest
                | Code::MethodNotAllowed
                | Code::TooLarge
                | Code::RangeNotSatisfiable
                | Code::UnsupportedMediaType
                | Code::Invalid
                | Code::Unsupported
                | Code::Internal => Exit::Failed,
            },
        }
    }

    /// May the same request succeed a little later?
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Broken { .. } => true,
            Self::Strange { status, .. } => (502..=504).contains(status),
            Self::NoToken | Self::Unsendable { .. } | Self::Untrusted { .. } | Self::Unreadable { .. } => false,
            Self::Refused(problem) => matches!(problem.code, Code::Recovering | Code::Unavailable),
        }
    }

    /// Places in what was sent.
    pub(crate) fn fields(&self) -> &[FieldError] {
        match self {
            Self::Refused(problem) => &problem.errors,
            Self::NoToken
            | Self::Unsendable { .. }
            | Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::Silent { .. }
            | Self::Broken { .. }
            | Self::Strange { .. }
            | Self::Unreadable { .. } => &[],
        }
    }
}

fn told(problem: &Problem) -> String {
    let detail = if problem.detail.is_empty() { &problem.title } else { &problem.detail };
    let next = match problem.code {
        Code::Unauthenticated => "\n  Run `bramble login` with a token that is still good.",
        Code::Internal => "\n  The coordinator's log has more, under this request.",
        Code::BadRequest
        | Code::Forbidden
        | Code::NotFound
        | Code::MethodNotAllowed
        | Code::Conflict
        | Code::PreconditionFailed
        | Code::TooLarge
        | Code::RangeNotSatisfiable
        | Code::UnsupportedMediaType
        | Code::Invalid
        | Code::Unsupported
        | Code::Recovering
        | Code::Unavailable
        | Code::DeviceUnreachable
        | Code::Timeout => "",
    };
    let request =
        if problem.request_id.is_empty() { String::new() } else { format!(" (request {})", problem.request_id) };
    format!("{detail}{request}{next}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_exit() {
        let exit = |code| {
            let problem = Problem {
                kind: "about:blank".into(),
                title: String::new(),
                status: 0,
                detail: String::new(),
                code,
                request_id: String::new(),
                errors: vec![],
            };
            ClientError::Refused(Box::new(problem)).exit()
        };
        let cases = [
            (Code::Unauthenticated, Exit::NotAllowed),
            (Code::Forbidden, Exit::NotAllowed),
            (Code::NotFound, Exit::NotFound),
            (Code::Conflict, Exit::Conflict),
            (Code::PreconditionFailed, Exit::Conflict),
            (Code::Recovering, Exit::Unreachable),
            (Code::Unavailable, Exit::Unreachable),
            (Code::DeviceUnreachable, Exit::Unreachable),
            (Code::Timeout, Exit::TimedOut),
            (Code::Invalid, Exit::Failed),
            (Code::Unsupported, Exit::Failed),
            (Code::Internal, Exit::Failed),
        ];
        for (code, want) in cases {
            assert_eq!(exit(code), want, "{code:?}");
        }
    }
}
