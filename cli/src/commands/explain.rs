//! `explain`: why is this not up to date? One answer, in words.

use bramble_contracts::api::Explanation;

use super::Session;
use crate::{
    args::{Explain, Explained},
    exit::{Exit, Failure},
    output::{Printed, Tone, clean, paint, say},
};

/// Asks the coordinator and shows its answer.
pub(super) async fn explain(
    s: &Session,
    Explain { resource: Explained::Device, name, deployment }: Explain,
) -> Result<Exit, Failure> {
    let query = deployment.iter().map(|d| ("deployment", d.to_string())).collect();
    let answer: Explanation = s.client.get(&["devices", &name, "explain"], &query).await?;
    if s.format.print(&answer)? == Printed::No {
        say(&show(&answer))?;
    }
    Ok(Exit::Done)
}

fn show(e: &Explanation) -> String {
    let tone = if e.up_to_date { Tone::Good } else { Tone::Warn };
    let mut text = format!("{}\n", paint(tone, &clean(&e.sentence)));
    for fact in &e.evidence {
        text.push_str(&format!("  - {}\n", clean(fact)));
    }
    if !e.next.is_empty() {
        text.push_str(&format!("Next: {}\n", clean(&e.next)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_what_it_rests_on() {
        let answer = Explanation {
            up_to_date: false,
            sentence: "hello on pi-1 waits for its image.".into(),
            evidence: vec!["phase preparing".into(), "pull: \x1b[2Jno such image".into()],
            next: "Correct spec.containers[0].image.".into(),
        };
        assert_eq!(
            show(&answer),
            "hello on pi-1 waits for its image.\n  - phase preparing\n  - pull: \u{fffd}[2Jno such image\nNext: Correct spec.containers[0].image.\n"
        );
    }
}
