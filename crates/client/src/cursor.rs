/// The text is not that of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor that an answer gave")]
pub struct BadCursor;
