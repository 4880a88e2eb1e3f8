// Makes elements, and changes what is shown into what should be shown.
// Text is always set as text, never parsed as markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "g", "path", "line", "rect", "circle", "text", "title"]);
const HANDLERS = ["onclick", "onchange", "oninput", "onpointermove", "onpointerleave", "onfocus", "onblur"];

/** An element: `h("p", {class: "note"}, "text", child)`. Null children are left out. */
function h(tag, attributes, ...children) {
  const made = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made[name] = value;
    else if (name === "style") Object.entries(value).forEach(([key, text]) => made.style.setProperty(key, text));
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const keyOf = (node) => (node.nodeType === 1 ? node.getAttribute("data-key") : null);

/** Change `old` into `fresh`, keeping elements, so that focus, scrolling and open details stay. */
function patch(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || keyOf(old) !== keyOf(fresh)) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType === 3) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  patchAttributes(old, fresh);
  if (!old.hasAttribute("data-keep")) patchChildren(old, fresh);
  if (old.nodeName === "INPUT" && old.type === "checkbox") old.checked = fresh.hasAttribute("checked");
  else if ("value" in old && old.nodeName !== "LI" && old !== document.activeElement && old.value !== fresh.value) {
    old.value = fresh.value;
  }
}

function patchAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name === "open" && old.nodeName === "DETAILS") continue; // the reader opens and closes it
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const name of HANDLERS) old[name] = fresh[name];
}

function patchChildren(old, fresh) {
  const keyed = new Map([...old.childNodes].filter(keyOf).map((child) => [keyOf(child), child]));
  const wanted = new Set([...fresh.childNodes].map(keyOf).filter(Boolean));
  keyed.forEach((child, key) => { if (!wanted.has(key)) { child.remove(); keyed.delete(key); } });
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const key = keyOf(child);
    const match = key ? keyed.get(key) : at && !keyOf(at) ? at : null;
    if (!match) {
      old.insertBefore(child, at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else old.insertBefore(match, at);
    patch(match, child);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** Show `children` in `place`; what has the focus keeps it. */
function show(place, ...children) {
  const focused = document.activeElement;
  patchChildren(place, h("div", {}, ...children));
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}
