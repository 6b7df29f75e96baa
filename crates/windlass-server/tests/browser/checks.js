// What can be seen to be wrong with a page: returns a list of complaints.
() => {
  const found = [];
  const say = (what, element) => found.push(`${what}: ${element.outerHTML.slice(0, 140)}`);
  const visible = (element) => {
    const style = getComputedStyle(element);
    return element.getClientRects().length > 0 && style.visibility === "visible" && !element.closest(".unseen, .skip, .shapes");
  };

  // Width: nothing makes the page scroll sideways.
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    const wide = [...document.body.querySelectorAll("*")].filter((element) => {
      const scrolls = element.closest(".graph-scroll, .table-scroll, .tabs, .bar nav, .log-scroll, .pointed, .json, .example");
      return visible(element) && !scrolls && element.getBoundingClientRect().right > width + 1;
    });
    found.push(`the page is ${document.documentElement.scrollWidth} wide in a window of ${width}`);
    for (const element of wide.slice(0, 3)) say("too wide", element);
  }

  // Ids, languages, labels, headings, tab order.
  const ids = new Set();
  for (const element of document.querySelectorAll("[id]")) {
    if (ids.has(element.id)) say("an id twice", element);
    ids.add(element.id);
  }
  if (!document.documentElement.lang) found.push("no language");
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  for (const element of document.querySelectorAll("[tabindex]")) if (element.tabIndex > 0) say("a tab order of its own", element);
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    if (!field.labels.length && !field.getAttribute("aria-label")) say("no label", field);
  }
  for (const element of document.querySelectorAll("[style], [onclick], style")) say("a style or handler in the page", element);
  for (const region of document.querySelectorAll("*")) {
    const style = getComputedStyle(region);
    const scrolls = /auto|scroll/.test(style.overflowX + style.overflowY) && (region.scrollHeight > region.clientHeight + 1 || region.scrollWidth > region.clientWidth + 1);
    if (scrolls && region !== document.documentElement && region.nodeName !== "TEXTAREA" && region.tabIndex < 0 && !region.querySelector("a, button, input, [tabindex]")) {
      say("scrolls, but not with the keyboard", region);
    }
  }

  // Targets: at least 24 by 24, unless they are words of a text (WCAG 2.2, 2.5.8).
  for (const element of document.querySelectorAll("button, .button, select, input:not([type=hidden]):not([type=radio]):not([type=checkbox]), .tabs a, .bar a, .states a")) {
    const box = element.getBoundingClientRect();
    if (visible(element) && (box.height < 24 || box.width < 24)) say(`${box.width} x ${box.height} is small to hit`, element);
  }

  // Contrast of text with what lies behind it.
  const colour = (text) => {
    const parts = text.match(/[\d.]+/g)?.map(Number);
    return parts && { r: parts[0], g: parts[1], b: parts[2], a: parts[3] ?? 1 };
  };
  const over = (top, below) => ({
    r: top.r * top.a + below.r * (1 - top.a), g: top.g * top.a + below.g * (1 - top.a), b: top.b * top.a + below.b * (1 - top.a), a: 1,
  });
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const layer = colour(getComputedStyle(at).backgroundColor);
      if (layer.a > 0) layers.push(layer);
      if (layer.a === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), { r: 255, g: 255, b: 255, a: 1 });
  };
  const light = ({ r, g, b }) => {
    const part = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const check = (element, ink, paper, least, what) => {
    const ratio = contrast(over(ink, paper), paper);
    if (ratio < least) say(`${what} has a contrast of ${ratio.toFixed(2)}, less than ${least}`, element);
  };
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.nodeValue.trim());
    if (!visible(element)) continue;
    const style = getComputedStyle(element);
    if (words && element.nodeName !== "TITLE" && element.nodeName !== "OPTION") {
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      const node = element.closest(".graph .node");
      const paper = node ? colour(getComputedStyle(node.querySelector(".box")).fill) : behind(element);
      check(element, colour(node ? style.fill : style.color), paper, large ? 3 : 4.5, "text");
    }
    if (element.matches("input, select, textarea, .button, button")) {
      const edge = colour(style.borderTopColor);
      if (element.matches("[placeholder]")) check(element, colour(getComputedStyle(element, "::placeholder").color), behind(element), 4.5, "a placeholder");
      const filled = contrast(behind(element), behind(element.parentElement)) >= 3;
      if (!filled && !element.matches("[type=radio], [type=checkbox]")) check(element, edge, behind(element.parentElement), 3, "the edge of a field");
    }
    if (element.matches(".shape")) check(element, colour(style.color), behind(element), 3, "a shape");
  }
  return found.slice(0, 40);
}
