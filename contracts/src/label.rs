//! Labels on devices and deployments, and the selector that picks devices by them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{Name, checked_text};

/// The characters of a label's name and value: `a-z A-Z 0-9 - _ . /`, a letter or digit at both ends.
fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(b))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

checked_text!(
    /// The name of a label.
    LabelKey,
    "label name",
    "1 to 63 of a-z, A-Z, 0-9, -, _, . and /, with a letter or digit at both ends",
    is_label_text
);
checked_text!(
    /// The value of a label; may be empty.
    LabelValue,
    "label value",
    "0 to 63 of a-z, A-Z, 0-9, -, _, . and /, with a letter or digit at both ends",
    |t| t.is_empty() || is_label_text(t)
);

/// A set of labels.
pub type Labels = BTreeMap<LabelKey, LabelValue>;

/// Which devices a deployment is for: all of `match_labels`, or one of `devices`. Exactly one of the two is given;
/// a selector that says nothing selects nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Every one of these must be on the device.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub match_labels: Labels,
    /// Or: these devices, by name.
    #[serde(default)]
    pub devices: Vec<Name>,
}

impl Selector {
    /// Does this selector pick the device with this name and these labels?
    pub fn matches(&self, name: &Name, labels: &Labels) -> bool {
        if !self.devices.is_empty() {
            return self.devices.contains(name);
        }
        !self.match_labels.is_empty() && has_all(labels, &self.match_labels)
    }
}

/// Are all of `wanted` among `labels`?
pub fn has_all(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
