// The frame of the page: theme, navigation, and drawing the view that the address names.

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
let chosenTheme = recall().theme || null; // by the button; null follows the system
let printing = false;

function theme() {
  root.dataset.theme = printing ? "light" : chosenTheme || (dark.matches ? "dark" : "light");
}

function header() {
  const isDark = root.dataset.theme === "dark";
  return h("header", { "data-key": "header" },
    h("h1", {}, "Runs in ", h("span", { class: "path" }, store.document.queue.root)),
    h("p", { class: "made" }, h("span", { id: "made" }, `${store.document.made_at.slice(0, 19).replace("T", " ")} UTC`),
      store.document.live ? [" · ", h("span", { id: "live", role: "status", class: store.lost ? "lost" : null }, store.lost ? "the server does not answer" : "live")] : null),
    h("button", { type: "button", id: "theme", "aria-pressed": String(isDark), onclick: () => { chosenTheme = isDark ? "light" : "dark"; remember({ theme: chosenTheme }); theme(); draw(); } }, isDark ? "Light" : "Dark"));
}

function navigation() {
  const item = (to, text) => h("li", { "data-key": to }, h("a", { href: link(`/${to}`), "aria-current": route.view === "overview" && route.section === to ? "location" : null }, text));
  return h("nav", { "aria-label": "Sections", "data-key": "nav" }, h("ul", {}, item("now", "Now"), item("runs", "Runs"), item("compare", `Compare${choices.selected.length ? ` (${choices.selected.length})` : ""}`)));
}

function view() {
  if (route.view !== "run") return [nowSection(), runsSection(), compareSection()];
  const run = store.byId.get(route.job);
  return run ? runView(run) : [h("p", { "data-key": "gone" }, `There is no run \`${route.job}\` here. `, h("a", { href: link("/runs") }, "All runs"))];
}

/** Draw the whole page; only what has changed is touched. */
function draw() {
  const shown = route.view === "run" ? `run ${route.job}` : "overview";
  show(document.getElementById("page"),
    h("a", { class: "skip", href: "#content", "data-key": "skip", onclick: (event) => { event.preventDefault(); document.getElementById("content").focus(); } }, "Skip to the content"),
    header(), navigation(),
    h("main", { id: "content", tabindex: -1, "data-key": shown, class: route.view }, ...view()),
    h("footer", { "data-key": "footer" }, h("p", {}, "Made by jobspec from the files below ", h("span", { class: "path" }, store.document.queue.root), ". Intervals are of 95 %, over other questions of the same kind, or over samples where there is no other.")));
}

/** Go where the address points, and put the focus there. */
function arrive() {
  readAddress();
  draw();
  const target = route.view === "run" ? "run-title" : route.section ? `${route.section}-title` : null;
  const found = target && document.getElementById(target);
  if (route.view === "run") scrollTo(0, 0);
  if (found) {
    found.focus({ preventScroll: true });
    if (route.view !== "run") found.scrollIntoView();
  }
  document.title = route.view === "run" ? `${store.byId.get(route.job)?.label || "run"} · jobspec` : `jobspec: ${store.document.queue.root}`;
}

function begin() {
  const page = h("div", { id: "page" });
  document.body.prepend(page);
  Object.entries(store.document.details).forEach(([id, details]) => store.details.set(id, details));
  choices = { ...DEFAULT_CHOICES, ...Object.fromEntries(Object.entries(recall()).filter(([name]) => STORED.includes(name))) };
  index();
  theme();
  arrive();
  addEventListener("hashchange", arrive);
  dark.addEventListener("change", () => { theme(); draw(); });
  let width = root.clientWidth;
  addEventListener("resize", () => { if (root.clientWidth !== width) { width = root.clientWidth; draw(); } });
  const closed = new Set();
  addEventListener("beforeprint", () => {
    printing = true;
    theme();
    draw();
    document.querySelectorAll("main details:not([open]):not(.columns):not(.numbers)").forEach((each) => { each.open = true; closed.add(each); });
  });
  addEventListener("afterprint", () => { printing = false; theme(); draw(); closed.forEach((each) => { each.open = false; }); closed.clear(); });
  if (store.document.live) follow();
  root.dataset.ready = "yes";
}

begin();
