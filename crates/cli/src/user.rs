/// The variable of the environment with the name of whoever uses the tool.
const USER: &str = "USER";

/// Whoever uses the tool, for people.
pub(crate) fn user() -> Option<String> {
    std::env::var(USER).ok().filter(|user| !user.is_empty())
}
