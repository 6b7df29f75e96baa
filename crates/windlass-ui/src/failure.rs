//! A failure as a person reads it: what, why, and what to do.

use maud::{Markup, html};
use windlass_api::Failure;

use crate::figures::shortened;

/// Characters of a message that are shown.
const MESSAGE: usize = 2000;

/// The whole of it.
pub(crate) fn told(failure: &Failure) -> Markup {
    html! {
        div .failure {
            p { (shortened(&failure.message, MESSAGE)) " " code .fine { (failure.code) } }
            @if !failure.causes.is_empty() {
                ul .causes { @for cause in failure.causes.iter().take(20) { li { "caused by: " (shortened(cause, MESSAGE)) } } }
            }
            @if let Some(hint) = &failure.hint { p .hint { "What to do: " (shortened(hint, MESSAGE)) } }
        }
    }
}
