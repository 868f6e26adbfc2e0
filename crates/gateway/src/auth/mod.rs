//! Who may do what: tokens, their scopes, and the requests that carry them.

mod access;
mod credentials;
mod extract;
mod origin;
mod scopes;
mod token_file;
mod tokens;

pub(crate) use access::{Access, SIGN_IN};
pub(crate) use extract::{Operator, Reader, Sender};
pub(crate) use origin::check_origin;
pub(crate) use scopes::Scope;
pub(crate) use tokens::Grant;
