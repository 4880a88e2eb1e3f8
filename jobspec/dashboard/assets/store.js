// The document, what follows from it, and the reader's choices.
// Choices are kept in the address after `#`, so that a view can be sent as a link, and in the
// browser's storage, so that they are there the next time.

const store = { document: JSON.parse(document.getElementById("document").textContent), details: new Map(), pairs: new Map() };

// Distinct for any kind of colour vision, and readable on white and on black (at least 3:1).
const COLOURS = ["#0072B2", "#C75000", "#008F68", "#C2649A", "#A67200", "#7F6BD0", "#6B7F2A"];
const DASHES = ["none", "7 4", "2 3", "9 3 2 3"];
const STATES = ["running", "pending", "failed", "succeeded", "cancelled"];
const STATE_WORDS = { pending: "waiting", succeeded: "done" };
const stateWord = (state) => STATE_WORDS[state] || state;

/** Make everything that follows from the document. Called when rows have changed. */
function index() {
  const { runs } = store.document;
  store.byId = new Map(runs.map((run) => [run.id, run]));
  const names = new Map();
  runs.forEach((run) => names.set(run.name, (names.get(run.name) || 0) + 1));
  runs.forEach((run, number) => {
    run.number = number;
    run.label = names.get(run.name) > 1 ? `${run.name} ${run.id.slice(-10)}` : run.name;
    run.short = run.id.slice(-10);
    run.scores = run.scores || {};
  });
  store.benchmarks = [...new Set(runs.flatMap((run) => Object.keys(run.scores)))];
  store.standing = new Map(store.benchmarks.map((name) => [name, standing(runs, name)]));
  store.names = settingNames(runs);
  store.differing = store.names.filter((name) => isSetting(name) && differs(runs, name));
}

const colour = (run) => COLOURS[run.number % COLOURS.length];
const dash = (run) => DASHES[Math.floor(run.number / COLOURS.length) % DASHES.length];

// --- settings

/** A run's setting; undefined where the run has no such group, as a base model has no `train`. */
function setting(run, name) {
  if (name === "training") return training(run);
  if (run.settings && name in run.settings) return run.settings[name];
  const group = name.split(".")[0];
  if (!(run.groups || []).includes(group)) return undefined;
  return store.document.defaults[name];
}

/** How a model was trained, in a word. */
function training(run) {
  if (!(run.groups || []).length) return undefined;
  if (!run.groups.includes("train")) return "none";
  return setting(run, "train.lora") ? `LoRA r ${setting(run, "train.lora.r")}` : "full";
}

function settingNames(runs) {
  const names = new Set(FIRST);
  Object.keys(store.document.defaults).forEach((name) => names.add(name));
  runs.forEach((run) => Object.keys(run.settings || {}).forEach((name) => names.add(name)));
  return [...names];
}

const FIRST = [
  "model.name", "training", "train.learning_rate", "train.num_train_epochs", "train.global_batch_size", "train.seed",
  "train.lora", "train.lora.r", "train.lora.alpha", "train.max_length", "data.path",
];
const NOT_COMPARED = /^(notes$|tracking\.|resources\.|data\.sha256$|data\.allow_contaminated$)/;
const isSetting = (name) => !NOT_COMPARED.test(name);

/** Whether the runs that have a setting disagree on it. */
function differs(runs, name) {
  const values = new Set(runs.map((run) => setting(run, name)).filter((value) => value !== undefined));
  return values.size > 1;
}

// --- scores

const better = (score, a, b) => (score.lower_is_better ? a < b : a > b);
const ends = (score) => [score.low ?? score.value, score.high ?? score.value];
const overlap = (a, b) => ends(a)[0] <= ends(b)[1] && ends(b)[0] <= ends(a)[1];
const known = (score) => typeof score.low === "number" && typeof score.high === "number";

/**
 * For each run with a score: "best" if its interval lies beyond all others, "close" if it is the
 * highest or its interval overlaps the highest one's, else "". Nothing is close if all are.
 */
function standing(runs, benchmark) {
  const scored = runs.filter((run) => run.scores[benchmark]);
  const found = new Map();
  for (const metric of new Set(scored.map((run) => run.scores[benchmark].metric))) {
    const rivals = scored.filter((run) => run.scores[benchmark].metric === metric);
    const score = (run) => run.scores[benchmark];
    const top = rivals.reduce((a, b) => (better(score(a), score(b).value, score(a).value) ? b : a));
    const close = rivals.filter((run) => overlap(score(run), score(top)));
    if (close.length === rivals.length) continue; // none, or no difference that is decided
    const decided = close.length === 1 && known(score(top));
    close.forEach((run) => found.set(run.id, decided ? "best" : "close"));
  }
  return found;
}

// --- choices

const DEFAULT_CHOICES = {
  q: "", states: [], sort: "", selected: [], columns: [], hidden: [], x: "step", y: "linear", smooth: 0,
  same: false, all: [], benchmark: "", outcome: "", find: "",
};
const LISTS = ["states", "selected", "columns", "hidden", "all"];
const STORED = ["columns", "x", "y", "smooth", "sort"]; // also the next time
const storageKey = `jobspec ${store.document.queue.root}`;
let choices = { ...DEFAULT_CHOICES };
let route = { view: "overview", job: null, section: null };

/** Read the route and the choices from the address, and else from the last visit. */
function readAddress() {
  const [path, query] = location.hash.replace(/^#/, "").split("?");
  const [, view, job] = path.split("/");
  route = view === "run" ? { view, job, section: null } : { view: "overview", job: null, section: view || null };
  if (query === undefined) return;
  const given = new URLSearchParams(query);
  const read = { ...DEFAULT_CHOICES };
  for (const name of Object.keys(read)) {
    if (!given.has(name)) continue;
    const text = given.get(name);
    read[name] = LISTS.includes(name) ? text.split(",").filter(Boolean) : name === "smooth" ? Number(text) || 0 : name === "same" ? text === "1" : text;
  }
  choices = read;
}

function spellAddress(path) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(choices)) {
    if (JSON.stringify(value) === JSON.stringify(DEFAULT_CHOICES[name])) continue;
    query.set(name, Array.isArray(value) ? value.join(",") : value === true ? "1" : String(value));
  }
  const text = query.toString();
  return `#${path}${text ? `?${text}` : ""}`;
}

const path = () => (route.view === "run" ? `/run/${route.job}` : `/${route.section || ""}`);
const link = (to) => spellAddress(to);
const runLink = (run) => link(`/run/${run.id}`);

/** Make a choice: the address, the storage and the page follow. */
function choose(changes) {
  choices = { ...choices, ...changes };
  history.replaceState(null, "", spellAddress(path()) || "#/");
  remember(Object.fromEntries(STORED.map((name) => [name, choices[name]])));
  draw();
}

const toggled = (list, item) => (list.includes(item) ? list.filter((each) => each !== item) : [...list, item]);

function remember(changes) {
  try {
    localStorage.setItem(storageKey, JSON.stringify({ ...recall(), ...changes }));
  } catch { /* storage may be forbidden */ }
}

function recall() {
  try {
    return JSON.parse(localStorage.getItem(storageKey)) || {};
  } catch {
    return {};
  }
}

/** The runs that are compared: the selected ones, or else the newest with something to compare. */
function compared() {
  const selected = choices.selected.map((name) => store.document.runs.find((run) => run.short === name)).filter(Boolean);
  if (selected.length) return selected;
  const told = store.document.runs.filter((run) => run.loss !== undefined || Object.keys(run.scores).length);
  return told.slice(-6);
}
