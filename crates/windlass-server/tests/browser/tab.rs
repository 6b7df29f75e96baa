//! One tab of the browser, as a person uses it: mouse, keys, and eyes that wait until something is to be seen.

use std::path::PathBuf;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::chromium::Chromium;

/// Tries of half a second each.
const TRIES: usize = 120;

/// Tries that may fail at once because the page is being exchanged.
const BROKEN: usize = 5000;

pub(crate) struct Tab {
    chromium: Chromium,
    session: String,
    base: String,
    scripts: bool,
    complaints: Vec<String>,
}

/// How large the window is, and which colours are preferred.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) name: &'static str,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) dark: bool,
}

pub(crate) const LOOKS: [Look; 4] = [
    Look { name: "light", width: 1280, height: 860, dark: false },
    Look { name: "dark", width: 1280, height: 860, dark: true },
    Look { name: "phone-light", width: 360, height: 740, dark: false },
    Look { name: "phone-dark", width: 360, height: 740, dark: true },
];

impl Tab {
    /// A new browser with one tab that shows pages of `base`: `http://127.0.0.1:7420`.
    pub(crate) fn open(base: &str) -> Self {
        let mut chromium = Chromium::start();
        let target = chromium.call(None, "Target.createTarget", json!({ "url": "about:blank" })).unwrap();
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = chromium.call(None, "Target.attachToTarget", attach).unwrap();
        let session = session["sessionId"].as_str().unwrap().to_owned();
        let mut tab = Self {
            chromium,
            session,
            base: base.trim_end_matches('/').to_owned(),
            scripts: true,
            complaints: Vec::new(),
        };
        for domain in ["Page", "Runtime", "Log", "Accessibility"] {
            tab.call(&format!("{domain}.enable"), json!({}));
        }
        tab.look(LOOKS[0]);
        tab
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.chromium.call(Some(&self.session), method, params).unwrap()
    }

    pub(crate) fn look(&mut self, look: Look) {
        let phone = look.width < 700;
        let size = json!({ "width": look.width, "height": look.height, "deviceScaleFactor": if phone { 2 } else { 1 }, "mobile": phone });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if look.dark { "dark" } else { "light" };
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            // Pictures of things that move differ each time.
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    pub(crate) fn scripts(&mut self, on: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({ "value": !on }));
        self.scripts = on;
    }

    /// Loads a page of the server.
    pub(crate) fn goto(&mut self, path: &str) {
        let url = format!("{}{path}", self.base);
        let done = self.call("Page.navigate", json!({ "url": url }));
        assert!(done["errorText"].is_null(), "{url}: {done}");
        self.until("document.readyState === 'complete'");
    }

    fn evaluate(&mut self, script: &str) -> Result<Value, String> {
        let params = json!({ "expression": script, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let mut done = self.chromium.call(Some(&self.session), "Runtime.evaluate", params)?;
        match done["exceptionDetails"]["exception"]["description"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(done["result"]["value"].take()),
        }
    }

    /// The value of an expression in the page.
    pub(crate) fn value(&mut self, script: &str) -> Value {
        self.evaluate(script).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until an expression in the page is true.
    pub(crate) fn until(&mut self, condition: &str) {
        if !self.scripts {
            // Timers of the page rest with its scripts.
            for _ in 0..TRIES * 5 {
                if self.evaluate(&format!("Boolean({condition})")).is_ok_and(|fits| fits == true) {
                    return;
                }
                self.chromium.stir();
            }
            panic!("this never came without scripts: {condition}");
        }
        let script = format!(
            "new Promise((done) => {{ const began = performance.now(); const look = () => {{ \
             let fits = false; try {{ fits = Boolean({condition}); }} catch {{ fits = false; }} \
             if (fits) done(true); else if (performance.now() - began > 500) done(false); else setTimeout(look, 20); }}; look(); }})"
        );
        let (mut tries, mut broken) = (0, 0);
        while tries < TRIES && broken < BROKEN {
            match self.evaluate(&script) {
                Ok(Value::Bool(true)) => return,
                Ok(_) => tries += 1,
                Err(_) => broken += 1,
            }
        }
        let seen = self.evaluate("`${location.href}\n${document.body.innerText}`").unwrap_or_default();
        panic!("this never came: {condition}\nthe page shows: {}", seen.as_str().unwrap_or_default());
    }

    /// Waits until the text is to be seen somewhere.
    pub(crate) fn sees(&mut self, text: &str) {
        self.until(&format!("document.body.innerText.includes({})", json!(text)));
    }

    /// Waits for an element and clicks in its middle with the mouse.
    pub(crate) fn click(&mut self, selector: &str) {
        let found = format!("document.querySelector({})", json!(selector));
        self.until(&format!("{found}?.getClientRects().length"));
        let place = self.value(&format!(
            "(() => {{ const element = {found}; element.scrollIntoView({{ block: 'center', inline: 'center' }}); \
             const box = element.getBoundingClientRect(); const x = box.x + box.width / 2, y = box.y + box.height / 2; \
             const top = document.elementFromPoint(x, y); \
             return {{ x, y, free: element === top || element.contains(top) || top?.contains(element) }}; }})()"
        ));
        assert_eq!(place["free"], true, "something lies over {selector}");
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({ "type": kind, "x": place["x"], "y": place["y"], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses and releases a key: `Tab`, `Enter`, `Escape`, `ArrowRight`, or one character.
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            "Escape" => (27, None),
            " " => (32, Some(" ")),
            "ArrowLeft" => (37, None),
            "ArrowUp" => (38, None),
            "ArrowRight" => (39, None),
            "ArrowDown" => (40, None),
            other => (i32::from(other.to_ascii_uppercase().as_bytes()[0]), Some(other)),
        };
        let mut down = json!({ "type": if text.is_some() { "keyDown" } else { "rawKeyDown" }, "key": key, "code": key, "windowsVirtualKeyCode": code });
        if let Some(text) = text {
            down["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", down);
        self.call(
            "Input.dispatchKeyEvent",
            json!({ "type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code }),
        );
    }

    /// Types a text where the focus is.
    pub(crate) fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Presses Tab until the focus is on the element.
    pub(crate) fn tab_to(&mut self, selector: &str) {
        let there = format!("document.activeElement?.matches({}) ?? false", json!(selector));
        for _ in 0..80 {
            self.press("Tab");
            if self.value(&there) == true {
                return;
            }
        }
        panic!("the Tab key never comes to {selector}");
    }

    /// Names and roles as a screen reader gets them: those that it could only read as "link" or "button".
    pub(crate) fn nameless(&mut self) -> Vec<String> {
        const NAMED: [&str; 12] = [
            "link",
            "button",
            "textbox",
            "searchbox",
            "combobox",
            "checkbox",
            "radio",
            "img",
            "image",
            "progressbar",
            "dialog",
            "table",
        ];
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        nodes
            .iter()
            .filter(|node| node["ignored"] == false)
            .filter(|node| node["role"]["value"].as_str().is_some_and(|role| NAMED.contains(&role)))
            .filter(|node| node["name"]["value"].as_str().is_none_or(|name| name.trim().is_empty()))
            .map(|node| format!("a {} without a name", node["role"]["value"]))
            .collect()
    }

    /// Errors and warnings of the console, exceptions, and what the content security policy stopped.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        for event in self.chromium.events() {
            let params = &event["params"];
            let found = match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" => Some(format!("exception: {}", params["exceptionDetails"])),
                "Runtime.consoleAPICalled"
                    if ["error", "warning", "assert"].iter().any(|kind| params["type"] == *kind) =>
                {
                    Some(format!("console: {}", params["args"]))
                }
                "Log.entryAdded" if ["error", "warning"].iter().any(|level| params["entry"]["level"] == *level) => {
                    Some(format!("log: {} {}", params["entry"]["text"], params["entry"]["url"]))
                }
                _ => None,
            };
            self.complaints.extend(found);
        }
        std::mem::take(&mut self.complaints)
    }

    /// Fails if the page complained since the last time.
    pub(crate) fn is_content(&mut self) {
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "the browser complains:\n{}", complaints.join("\n"));
    }

    /// Keeps a picture under `docs/screenshots`, when `WINDLASS_SCREENSHOTS=1` asks for pictures.
    pub(crate) fn picture(&mut self, name: &str) {
        if std::env::var_os("WINDLASS_SCREENSHOTS").is_none_or(|wanted| wanted != "1") {
            return;
        }
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let bytes = base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }
}
