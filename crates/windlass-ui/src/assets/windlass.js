// The script of the pages. They work without it; with it they follow the server.
//
// One idea carries all of it: the server draws, this puts what it drew in place. When an event says that something
// changed, the same page is fetched and what differs is exchanged (`morph`), so that focus, selection, scroll
// positions and what was unfolded stay. Task pages become a drawer, questions become a dialog.
"use strict";

(() => {
  const root = document.documentElement;
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

  // ---- Light or dark. Runs before anything is painted, which is why this file is not deferred.

  const THEME = "windlass-theme";
  const stored = (name) => {
    try { return localStorage.getItem(name); } catch { return null; }
  };
  const keep = (name, value) => {
    try { localStorage.setItem(name, value); } catch { /* private windows may refuse; then it lasts for this page */ }
  };
  const chosen = stored(THEME);
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

  const theme = () => {
    const button = $("#theme");
    const say = () => { button.textContent = isDark() ? "Light colours" : "Dark colours"; };
    button.hidden = false;
    say();
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      keep(THEME, root.dataset.theme);
      say();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", say);
  };

  // ---- Times: "3 min ago" stays true, by the server's clock.

  let ahead = 0;
  const clock = (text) => {
    const now = Date.parse(text ?? "");
    if (!Number.isNaN(now)) ahead = now - Date.now();
  };
  const relative = (at) => {
    const ms = Date.now() + ahead - at;
    const s = Math.floor(Math.abs(ms) / 1000);
    if (ms >= 0 && s < 3) return "just now";
    const text = s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min` : s < 172800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} days`;
    return ms >= 0 ? `${text} ago` : `in ${text}`;
  };
  const tick = () => {
    for (const time of $$("time[data-ago]")) {
      const text = relative(Date.parse(time.dateTime));
      if (time.textContent !== text) time.textContent = text;
    }
  };

  // ---- Exchanging what differs.

  const keyOf = (node) => (node.nodeType === 1 ? node.id || node.dataset?.key || "" : "");
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

  // What the person at the screen has set is theirs.
  const theirs = (element, name) =>
    (name === "open" && (element.nodeName === "DETAILS" || element.nodeName === "DIALOG")) ||
    (name === "checked" && element.nodeName === "INPUT") || (name === "value" && element.nodeName === "INPUT") ||
    (name === "selected" && element.nodeName === "OPTION");

  const attributes = (from, to) => {
    for (const { name, value } of [...to.attributes]) {
      if (!theirs(from, name) && from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    for (const { name } of [...from.attributes]) {
      if (!theirs(from, name) && !to.hasAttribute(name)) from.removeAttribute(name);
    }
  };

  const morph = (from, to) => {
    if (from.nodeType !== 1) {
      if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
      return;
    }
    if (from.isEqualNode(to)) return;
    attributes(from, to);
    if (from.nodeName === "TEXTAREA") return;
    const keyed = new Map();
    for (const child of from.childNodes) {
      if (keyOf(child)) keyed.set(keyOf(child), child);
    }
    let at = from.firstChild;
    for (const next of [...to.childNodes]) {
      const known = keyOf(next) && keyed.get(keyOf(next));
      if (known && alike(known, next)) {
        if (known === at) at = at.nextSibling;
        else from.insertBefore(known, at);
        morph(known, next);
      } else if (at && alike(at, next) && !keyOf(next)) {
        const here = at;
        at = at.nextSibling;
        morph(here, next);
      } else {
        from.insertBefore(document.importNode(next, true), at);
      }
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  };

  // ---- Getting pages.

  class Refused extends Error {}

  const get = async (url, signal) => {
    const answer = await fetch(url, { headers: { accept: "text/html" }, credentials: "same-origin", cache: "no-store", signal });
    if (answer.redirected && new URL(answer.url).pathname === "/login") throw new Refused("signed out");
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    return { page, ok: answer.ok };
  };

  const place = (page) => {
    clock(page.body.dataset.now);
    const log = $("#log");
    const follows = $("#follow")?.checked;
    morph($("#main"), $("#main", page));
    if (document.title !== page.title) document.title = page.title;
    dress();
    if (log && follows) log.scrollTop = log.scrollHeight;
  };

  // What the server does not send because it is only there with a script.
  const dress = () => {
    tick();
    rove();
    for (const field of $$(".file-field[hidden]")) field.hidden = false;
  };

  // ---- Following the server.

  const state = (name, text) => {
    const place = $("#link-state");
    if (place.dataset.state === name) return;
    place.dataset.state = name;
    place.textContent = text;
  };

  let took = 50;
  let waiting = null;
  let fetching = false;
  let missed = false;

  const refresh = async () => {
    waiting = null;
    if (document.hidden || fetching) {
      missed = true;
      return;
    }
    fetching = true;
    missed = false;
    const began = performance.now();
    try {
      const { page, ok } = await get(location.href);
      if (ok) {
        place(page);
        await drawer.refresh();
      }
    } catch (error) {
      if (error instanceof Refused) location.reload();
      else state("lost", "Cannot reach the server; trying again");
    }
    fetching = false;
    // A page that is costly to make is asked for less often.
    took = performance.now() - began;
    if (missed) soon();
  };

  const soon = () => {
    waiting ??= setTimeout(refresh, Math.min(10_000, Math.max(350, took * 6)));
  };

  // Reads the stream of events: an EventSource that says from the first on after which entry it wants to go on, and
  // that lets go of its connection while nobody looks (a browser has six for each server).
  const follow = () => {
    const url = document.body.dataset.events;
    if (!url) return;
    let last = document.body.dataset.after ?? "";
    let stream = null;
    let polling = null;
    let pause = 1000;

    const read = async (body) => {
      let text = "";
      for (const reader = body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
        const { value, done } = await reader.read();
        if (done) return;
        text += value;
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          let kind = "";
          for (const line of block.split("\n")) {
            if (line.startsWith("id: ")) last = line.slice(4);
            else if (line.startsWith("event: ")) kind = line.slice(7);
          }
          if (kind === "bye") return;
          if (kind) soon();
        }
      }
    };

    const connect = async () => {
      if (stream || document.hidden) return;
      const own = stream = new AbortController();
      try {
        const headers = { accept: "text/event-stream" };
        if (last) headers["last-event-id"] = last;
        const answer = await fetch(url, { headers, credentials: "same-origin", cache: "no-store", signal: own.signal });
        if (answer.status === 401) return location.reload();
        if (answer.status === 400) last = "";
        if (!answer.ok) throw new Error(answer.statusText);
        pause = 1000;
        state("live", "Live");
        clearInterval(polling);
        polling = null;
        soon();
        await read(answer.body);
      } catch {
        // It is tried again below.
      }
      if (own.signal.aborted) return;
      stream = null;
      state("lost", "Not live: asking every few seconds");
      polling ??= setInterval(refresh, 5000);
      setTimeout(connect, pause);
      pause = Math.min(pause * 2, 30_000);
    };

    const rest = () => {
      stream?.abort();
      stream = null;
    };
    connect();
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) rest();
      else {
        connect();
        soon();
      }
    });
    addEventListener("pagehide", rest);
    addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
  };

  // ---- The drawer and the question.

  const dialog = (selector, part, bodySelector) => {
    const element = $(selector);
    const body = $(bodySelector, element);
    let shown = null;
    element.addEventListener("close", () => { shown = null; body.replaceChildren(); });
    element.addEventListener("click", (event) => { if (event.target === element) element.close(); });
    const fill = (page) => {
      const content = $(part, page);
      if (!content) return false;
      if (part === "#task") {
        // The page below may have the same ids.
        for (const inner of $$("[id]", content)) inner.removeAttribute("id");
        for (const inner of $$("[aria-labelledby]", content)) inner.removeAttribute("aria-labelledby");
      }
      const old = body.firstElementChild;
      if (old && old.nodeName === content.nodeName) morph(old, content);
      else body.replaceChildren(document.importNode(content, true));
      tick();
      return true;
    };
    return {
      async open(url) {
        try {
          const { page } = await get(url);
          if (!fill(page)) throw new Error("nothing to show");
          shown = url;
          if (!element.open) element.showModal();
          const first = $("input:not([type=hidden]), button.first", body) ?? $("h1", body);
          if (first?.nodeName === "H1") first.tabIndex = -1;
          first?.focus();
          if (part === "#task") element.scrollTop = 0;
        } catch {
          location.href = url;
        }
      },
      async refresh() {
        if (shown && part === "#task") fill((await get(shown)).page);
      },
      close() { element.close(); },
    };
  };

  let drawer;
  let question;

  const clicks = (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const link = event.target.closest?.("a");
    if (!link) return;
    const href = link.getAttribute("href");
    if (link.dataset.task) {
      event.preventDefault();
      drawer.open(href);
    } else if (link.hasAttribute("data-ask")) {
      event.preventDefault();
      question.open(href);
    } else if (link.hasAttribute("data-close") && $("#ask-back").open) {
      event.preventDefault();
      question.close();
    }
  };

  // A form that is sent twice by two quick clicks is refused by its key; it need not come to that.
  const submits = (event) => {
    const form = event.target;
    if (form.method !== "post") return;
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "1";
    setTimeout(() => delete form.dataset.sent, 4000);
  };

  // ---- Filters answer while one types.

  let typed = null;
  let asked = null;

  const filter = async (form) => {
    asked?.abort();
    asked = new AbortController();
    const members = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    const url = `${form.getAttribute("action")}${members.size ? `?${members}` : ""}`;
    try {
      const { page, ok } = await get(url, asked.signal);
      if (!ok) return;
      history.replaceState(null, "", url);
      place(page);
    } catch (error) {
      if (error instanceof Refused) location.reload();
    }
  };

  const filters = () => {
    document.addEventListener("input", (event) => {
      const form = event.target.closest?.("form[data-filter]");
      if (!form) return;
      clearTimeout(typed);
      typed = setTimeout(() => filter(form), event.target.nodeName === "SELECT" ? 0 : 250);
    });
    document.addEventListener("submit", (event) => {
      const form = event.target.closest?.("form[data-filter]");
      if (!form) return;
      event.preventDefault();
      filter(form);
    });
  };

  // ---- The plan: one stop for the tab key, arrow keys inside; the edges of a node light up.

  const nodes = () => $$("#graph .node");

  const rove = () => {
    const all = nodes();
    const current = all.find((node) => node === document.activeElement) ?? all.find((node) => node.dataset.current) ?? all[0];
    for (const node of all) {
      node.setAttribute("tabindex", node === current ? "0" : "-1");
      node.toggleAttribute("data-current", node === current);
    }
  };

  // A wide plan opens where something happens.
  const watched = () => {
    const graph = $("#graph");
    const node = graph && ($(".node.failed", graph) ?? $(".node.running", graph));
    if (!node) return;
    const [inner, outer] = [node.getBoundingClientRect(), graph.getBoundingClientRect()];
    graph.scrollLeft += inner.x - outer.x - (outer.width - inner.width) / 2;
    graph.scrollTop += inner.y - outer.y - (outer.height - inner.height) / 2;
  };

  const light = (node) => {
    for (const edge of $$("#graph .edge.lit")) edge.classList.remove("lit");
    if (!node) return;
    const n = node.dataset.n;
    for (const edge of $$(`#graph .edge[data-from="${n}"], #graph .edge[data-to="${n}"]`)) edge.classList.add("lit");
  };

  const step = (from, key) => {
    const column = Number(from.dataset.column);
    const box = from.getBoundingClientRect();
    const sideways = key === "ArrowLeft" ? -1 : key === "ArrowRight" ? 1 : 0;
    const wanted = column + sideways;
    const others = nodes().filter((node) => node !== from && Number(node.dataset.column) === wanted);
    const away = (node) => node.getBoundingClientRect().top - box.top;
    const fit = sideways ? others : others.filter((node) => (key === "ArrowDown" ? away(node) > 0 : away(node) < 0));
    return fit.sort((a, b) => Math.abs(away(a)) - Math.abs(away(b)))[0];
  };

  const keys = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const active = document.activeElement;
    if (event.key.startsWith("Arrow")) {
      const node = active?.closest?.("#graph .node");
      const next = node ? step(node, event.key) : active?.id === "graph" ? nodes()[0] : null;
      if (next) {
        event.preventDefault();
        next.setAttribute("data-current", "");
        node?.removeAttribute("data-current");
        next.focus();
        rove();
        next.scrollIntoView({ block: "nearest", inline: "nearest" });
        return;
      }
      const row = active?.closest?.(".row-link") && active.closest("tr");
      const to = row && (event.key === "ArrowDown" ? row.nextElementSibling : event.key === "ArrowUp" ? row.previousElementSibling : null);
      if (to) {
        event.preventDefault();
        $(".row-link", to)?.focus();
      }
      return;
    }
    const writing = active?.matches?.("input, textarea, select, [contenteditable]");
    if (event.key === "/" && !writing && !$("dialog[open]")) {
      const search = $("input[type=search]");
      if (search) {
        event.preventDefault();
        search.focus();
        search.select();
      }
    }
  };

  // ---- A job file from the disk goes into the box, where it can be read before it is sent.

  const files = () => {
    const field = $("#job-file");
    field?.addEventListener("change", async () => {
      const file = field.files[0];
      if (!file) return;
      const note = $("#job-text-note");
      if (file.size > 4 << 20) {
        note.textContent = `${file.name} has ${file.size} bytes; a job file of more than 4 MiB is not taken.`;
        return;
      }
      $("#job-text").value = await file.text();
      note.textContent = `From ${file.name}. Nothing happens before you submit it.`;
    });
  };

  document.addEventListener("DOMContentLoaded", () => {
    clock(document.body.dataset.now);
    theme();
    drawer = dialog("#drawer", "#task", ".drawer-body");
    question = dialog("#ask-back", "#ask", ".ask-body");
    document.addEventListener("click", clicks);
    document.addEventListener("submit", submits);
    document.addEventListener("keydown", keys);
    document.addEventListener("focusin", (event) => light(event.target.closest?.("#graph .node")));
    document.addEventListener("mouseover", (event) => {
      const node = event.target.closest?.("#graph .node");
      if (node) light(node);
    });
    filters();
    files();
    dress();
    setInterval(tick, 1000);
    const log = $("#log");
    if (log) log.scrollTop = log.scrollHeight;
    watched();
    follow();
  });
})();
