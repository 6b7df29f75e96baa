//! Asks for a token.

use maud::html;
use windlass_api::page::LoginView;

use crate::shell::{Live, Section, command, page};

pub(crate) fn draw(view: &LoginView) -> String {
    let content = html! {
        section .sign-in {
            h1 { "Sign in" }
            p { "This server asks for a token. Whoever runs it made one for you; the browser keeps it in a cookie that scripts cannot read." }
            form method="post" action="/login" {
                input type="hidden" name="next" value=(view.next);
                div .field {
                    label for="token" { "Token" }
                    input #token type="password" name="token" required autocomplete="current-password" maxlength="4096";
                }
                div .answers { button .first type="submit" { "Sign in" } }
            }
            p .fine { "On the command line the same token is read from " (command("WINDLASS_TOKEN")) "." }
        }
    };
    page(&view.frame, Section::Nowhere, "Sign in", &Live::still(), &content)
}
