//! The files that pages load. They are part of the binary, and named by their content, so that browsers
//! can keep them.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

/// A file that pages load.
pub(crate) struct Asset {
    content: &'static str,
    media_type: &'static str,
    /// Its path, with a part of the hash of its content.
    pub(crate) path: String,
}

impl Asset {
    fn new(stem: &str, extension: &str, media_type: &'static str, content: &'static str) -> Self {
        use std::fmt::Write as _;

        let hash = Sha256::digest(content);
        let hash = hash.iter().take(6).fold(String::new(), |mut text, byte| {
            // Writing to a `String` does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        Self {
            content,
            media_type,
            path: format!("/assets/{stem}-{hash}.{extension}"),
        }
    }
}

/// All files that pages load.
pub(crate) struct Assets {
    pub(crate) style: Asset,
    pub(crate) script: Asset,
    pub(crate) icon: Asset,
}

pub(crate) static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: Asset::new(
        "style",
        "css",
        "text/css; charset=utf-8",
        include_str!("../../assets/style.css"),
    ),
    script: Asset::new(
        "live",
        "js",
        "text/javascript; charset=utf-8",
        include_str!("../../assets/live.js"),
    ),
    icon: Asset::new(
        "icon",
        "svg",
        "image/svg+xml",
        include_str!("../../assets/icon.svg"),
    ),
});

/// Serves a file. Its name changes with its content, so a browser need not ask again.
pub(crate) async fn asset(Path(name): Path<String>) -> Response {
    let all = [&ASSETS.style, &ASSETS.script, &ASSETS.icon];
    let found = all
        .into_iter()
        .find(|asset| asset.path.strip_prefix("/assets/") == Some(&name));
    match found {
        Some(asset) => {
            let headers = [
                (header::CONTENT_TYPE, asset.media_type),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ];
            (headers, asset.content).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
