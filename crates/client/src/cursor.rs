/// The text is not a cursor.
///
/// ```
/// use client::{BadCursor, Cursor};
///
/// assert_eq!("no cursor".parse::<Cursor>(), Err(BadCursor));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor from an earlier answer")]
pub struct BadCursor;
