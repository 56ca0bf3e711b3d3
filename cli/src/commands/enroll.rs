//! `enroll-token`: the tokens with which devices join.

use bramble_contracts::api::{TokenCreated, TokenRequest, TokenView};
use reqwest::Method;

use super::{Session, get};
use crate::{
    args::EnrollToken,
    client::NOTHING,
    exit::{Exit, Failure},
    output::{Printed, note, say},
};

const PATH: &str = "enrollment-tokens";

/// Makes, lists or revokes.
pub(super) async fn enroll_token(s: &Session, args: EnrollToken) -> Result<Exit, Failure> {
    match args {
        EnrollToken::Create { ttl, uses, auto_approve, labels } => {
            let request = TokenRequest { ttl, uses, auto_approve, labels: labels.into_iter().collect() };
            create(s, request).await
        }
        EnrollToken::List => get::list::<TokenView>(s, PATH, &vec![]).await,
        EnrollToken::Revoke { id } => {
            let view: TokenView = s.client.write(Method::DELETE, &[PATH, id.as_str()], &vec![], NOTHING).await?;
            if s.format.print(&view)? == Printed::No {
                say(&format!("enrollment-token/{id} revoked\n"))?;
            }
            Ok(Exit::Done)
        }
    }
}

async fn create(s: &Session, request: TokenRequest) -> Result<Exit, Failure> {
    let made: TokenCreated = s.client.write(Method::POST, &[PATH], &vec![], Some(&request)).await?;
    if s.format.print(&made)? == Printed::No {
        let view = &made.view;
        let approval =
            if view.uses > 1 && !view.auto_approve { "; they wait for `bramble device approve`" } else { "" };
        note(&format!(
            "Token {} for {} device(s) of tenant {}, until {}{approval}. It is shown only now:",
            view.id, view.uses, view.tenant, view.expires
        ));
        say(&format!("{}\n", made.token))?;
    }
    Ok(Exit::Done)
}
