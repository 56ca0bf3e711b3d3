//! Schemas of the types whose text form the derive cannot know.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

use crate::{quantity::Amount, v1::AgentVersion};

fn text(description: &str, pattern: &str) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description)).pattern(Some(pattern)).into()
}

impl PartialSchema for Amount {
    fn schema() -> RefOr<Schema> {
        text("A number of devices such as `1`, or a share such as `10%`.", "^[0-9]+%?$")
    }
}
impl ToSchema for Amount {}

impl PartialSchema for AgentVersion {
    fn schema() -> RefOr<Schema> {
        text("A release version such as `1.2.3`.", "^[0-9]+\\.[0-9]+\\.[0-9]+$")
    }
}
impl ToSchema for AgentVersion {}
