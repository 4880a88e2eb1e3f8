// The table of runs: one row each, on phones one card each.

const MOST_SETTINGS = 6; // columns of settings that are shown unless chosen

/** Every column there is: its title, its value for sorting and its content. */
function allColumns() {
  const column = (key, title, get, draw, extra = {}) => ({ key, title, get, draw: draw || ((run) => spell(get(run))), numeric: true, ...extra });
  const scores = store.benchmarks.map((name) => column(`score:${name}`, scoreTitle(name), (run) => run.scores[name]?.value, (run) => scoreCell(run, name), { score: true }));
  const settings = store.names.filter(isSetting).map((name) => column(`set:${name}`, settingTitle(name), (run) => setting(run, name),
    (run) => { const value = setting(run, name); return value === undefined ? "" : name === "model.name" || name === "data.path" ? h("span", { title: value }, lastPart(name, value)) : spell(value); },
    { numeric: false, setting: true, label: name }));
  return [
    column("state", "State", (run) => STATES.indexOf(run.state), (run) => [stateTag(run.state), run.state === "running" && run.progress !== undefined ? ` ${run.phase} ${percent(run.progress)}` : "",
      run.warning ? h("abbr", { class: "cut", title: run.warning }, " !") : null], { numeric: false }),
    ...scores,
    column("loss", "Train loss", (run) => run.loss, (run) => figure(run.loss)),
    column("eval_loss", "Held-out loss", (run) => run.eval_loss, (run) => figure(run.eval_loss)),
    ...settings,
    column("tokens", "Tokens", (run) => run.tokens, (run) => count(run.tokens)),
    column("hours", "Time", (run) => run.hours, (run) => hours(run.hours)),
    column("gpu_hours", "GPU-hours", (run) => run.gpu_hours, (run) => (run.gpu_hours ? figure(run.gpu_hours, 3) : "")),
    column("rate", "Tokens/s", (run) => run.tokens_per_second, (run) => count(run.tokens_per_second)),
    column("attempt", "Attempts", (run) => run.attempt, (run) => String(run.attempt)),
    column("host", "Host", (run) => run.host, (run) => run.host || "", { numeric: false }),
    column("user", "User", (run) => run.user, (run) => run.user || "", { numeric: false }),
    column("enqueued", "Enqueued", (run) => run.enqueued_at, (run) => moment(run.enqueued_at), { numeric: false }),
    column("ended", "Ended", (run) => run.ended_at, (run) => moment(run.ended_at), { numeric: false }),
  ];
}

const TITLES = {
  "model.name": "Model", training: "Training", "train.learning_rate": "Learning rate", "train.num_train_epochs": "Epochs", "train.global_batch_size": "Batch size",
  "train.seed": "Seed", "train.lora": "LoRA", "train.lora.r": "LoRA r", "train.lora.alpha": "LoRA alpha", "data.path": "Data", "train.max_length": "Max length",
};
/** The last part of a path, if the whole paths do not differ where it is the same. */
function lastPart(name, value) {
  const last = (text) => String(text).split("/").filter(Boolean).pop() || String(text);
  const whole = new Set(store.document.runs.map((run) => setting(run, name)).filter(Boolean));
  return new Set([...whole].map(last)).size === whole.size ? last(value) : String(value);
}

const settingTitle = (name) => TITLES[name] || name.replace(/^(train|data)\./, "");

function scoreTitle(name) {
  const metrics = new Set(store.document.runs.map((run) => run.scores[name]?.metric).filter(Boolean));
  const [metric] = metrics;
  return `${short(name)}${metrics.size === 1 && /^avg_at_/.test(metric) ? ` ${metric.replace("avg_at_", "avg@")}` : ""}`;
}

/** The columns that are shown unless the reader chooses: what differs, results, time. */
function usualColumns(columns) {
  const has = (column) => store.document.runs.some((run) => { const value = column.get(run); return value !== undefined && value !== null && value !== 0 && value !== ""; });
  const differing = new Set(store.differing.slice(0, MOST_SETTINGS).map((name) => `set:${name}`));
  const usual = ["loss", "eval_loss", "tokens", "hours"];
  return columns.filter((column) => column.key === "state" || column.score || differing.has(column.key) || (usual.includes(column.key) && has(column))).map((column) => column.key);
}

function runsSection() {
  const columns = allColumns();
  const wanted = choices.columns.length ? choices.columns : usualColumns(columns);
  const shown = columns.filter((column) => wanted.includes(column.key));
  const rows = sorted(filtered(), columns);
  const most = choices.all.includes("runs") ? rows.length : 400;
  return section("runs", "Runs",
    store.document.runs.length ? [controls(rows, columns, wanted), selectionBar(), table(rows.slice(0, most), shown),
      rows.length > most ? h("p", {}, h("button", { type: "button", onclick: () => choose({ all: [...choices.all, "runs"] }) }, `Show all ${rows.length}`)) : null,
      h("p", { class: "quiet" }, legend())] : h("p", {}, "There are no jobs here yet."));
}

function legend() {
  const scored = store.benchmarks.length ? "Scores have their 95 % intervals. ★ the best beyond all other intervals; ≈ may be the best, not decided; ! more than a tenth of the answers cut off. " : "";
  const details = [...store.details.values()].filter(Boolean).flatMap((each) => each.usage);
  const sum = (name) => details.reduce((total, each) => total + each[name], 0);
  const all = sum("hours");
  const gpu = sum("gpu_hours");
  const time = all && !store.document.live ? `All runs together took ${hours(all)}${gpu ? `, ${figure(gpu, 3)} GPU-hours` : ""}; ${percent(sum("lost_hours") / all, 1)} of it was lost to failed attempts.` : "";
  return scored + time;
}

// --- filter and sort

function filtered() {
  const words = choices.q.toLowerCase().split(/\s+/).filter(Boolean);
  return store.document.runs.filter((run) => {
    if (choices.states.length && !choices.states.includes(run.state)) return false;
    if (!words.length) return true;
    const text = [run.id, run.label, run.state, stateWord(run.state), run.why, run.message, run.host, run.user,
      ...Object.entries(run.settings || {}).map(([name, value]) => `${name}=${spell(value)}`)].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

function sorted(runs, columns) {
  const [, sign, key] = /^(-?)(.*)$/.exec(choices.sort);
  const get = key === "name" ? (run) => run.label.toLowerCase() : columns.find((column) => column.key === key)?.get;
  if (!get) return [...runs].reverse(); // the newest first
  const empty = (value) => value === undefined || value === null || value === "";
  const order = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
  return [...runs].sort((one, other) => {
    const a = get(one), b = get(other);
    if (empty(a) || empty(b)) return empty(a) - empty(b); // empty ones last
    return (sign ? -1 : 1) * order(a, b) || other.number - one.number;
  });
}

/** Sort by a column: numbers from the highest first, but losses from the lowest. */
function sortBy(key, numeric) {
  const first = numeric && !/loss$/.test(key) ? `-${key}` : key;
  const second = first === key ? `-${key}` : key;
  choose({ sort: choices.sort === first ? second : first });
}

// --- what is around the table

function controls(rows, columns, wanted) {
  const counts = new Map(STATES.map((state) => [state, store.document.runs.filter((run) => run.state === state).length]));
  const sorts = [["", "newest"], ["name", "name"], ...columns.filter((column) => wanted.includes(column.key)).map((column) => [column.numeric && !/loss$/.test(column.key) ? `-${column.key}` : column.key, column.title])];
  const found = sorts.find(([key]) => key.replace("-", "") === choices.sort.replace("-", ""));
  return h("div", { class: "controls" },
    h("label", { class: "field search" }, h("span", { class: "hidden" }, "Filter runs by text"),
      h("input", { type: "search", id: "filter", placeholder: "Filter: name, setting, reason …", value: choices.q, oninput: (event) => choose({ q: event.target.value }) })),
    h("div", { class: "states", role: "group", "aria-label": "Filter by state" },
      STATES.filter((state) => counts.get(state)).map((state) => toggle(choices.states.includes(state), () => choose({ states: toggled(choices.states, state) }), `${stateWord(state)} ${counts.get(state)}`))),
    h("div", { class: "phone" }, options("Sort by", found ? found[0] : "", sorts, (sort) => choose({ sort }))),
    h("details", { class: "columns" }, h("summary", {}, "Columns"),
      h("div", { class: "panel" },
        columnBoxes("Results", columns.filter((column) => !column.setting), wanted),
        columnBoxes("Settings that differ", columns.filter((column) => column.setting && store.differing.includes(column.label)), wanted),
        columnBoxes("Settings that are the same", columns.filter((column) => column.setting && !store.differing.includes(column.label)), wanted),
        h("button", { type: "button", onclick: () => choose({ columns: [] }) }, "Usual columns"))),
    h("span", { class: "quiet", role: "status" }, rows.length === store.document.runs.length ? plural(rows.length, "run") : `${rows.length} of ${plural(store.document.runs.length, "run")}`));
}

function columnBoxes(title, columns, wanted) {
  if (!columns.length) return null;
  return h("fieldset", {}, h("legend", {}, title), columns.map((column) => h("label", { "data-key": column.key },
    h("input", { type: "checkbox", checked: wanted.includes(column.key), onchange: () => choose({ columns: toggled(wanted, column.key) }) }), ` ${column.label || column.title}`)));
}

function selectionBar() {
  const selected = choices.selected.length;
  const shown = () => filtered().map((run) => run.short);
  return h("p", { class: "selection" },
    selected ? [h("a", { class: "button", href: link("/compare") }, `Compare ${plural(selected, "run")}`), " ",
      h("button", { type: "button", onclick: () => choose({ selected: [], hidden: [] }) }, "Clear selection")]
      : [h("span", { class: "quiet" }, "Select runs to compare them. "), h("button", { type: "button", onclick: () => choose({ selected: shown().slice(-28) }) }, "Select all shown")]);
}

// --- the table

function table(rows, columns) {
  const sort = (key) => (choices.sort.replace("-", "") === key ? (choices.sort.startsWith("-") ? "descending" : "ascending") : null);
  const head = (key, title, numeric) => h("th", { scope: "col", role: "columnheader", class: numeric ? "n" : null, "aria-sort": sort(key), "data-key": `head-${key}` },
    h("button", { type: "button", class: "sort", onclick: () => sortBy(key, numeric) }, title));
  return scroll("Runs", h("table", { class: "runs", role: "table" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, h("th", { scope: "col", role: "columnheader", class: "pick" }, h("span", { class: "hidden" }, "Compare")),
      head("name", "Run", false), columns.map((column) => head(column.key, column.title, column.numeric)))),
    h("tbody", { role: "rowgroup" }, rows.map((run) => tableRow(run, columns)))));
}

function tableRow(run, columns) {
  const selected = choices.selected.includes(run.short);
  return h("tr", { role: "row", "data-key": run.id, class: selected ? "selected" : null },
    h("td", { class: "pick", role: "cell" }, h("input", {
      type: "checkbox", checked: selected, "aria-label": `Compare ${run.label}`, onchange: () => choose({ selected: toggled(choices.selected, run.short) }),
    })),
    h("th", { scope: "row", role: "rowheader", class: "name" }, runName(run)),
    columns.map((column) => {
      const content = [column.draw(run)].flat();
      const empty = content.every((each) => each === "" || each === null || each === false);
      const kind = [column.numeric ? "n" : "", column.score ? "score" : "", column.key === "state" ? "is-state" : "", column.key === "set:model.name" ? "wide" : "", empty ? "empty" : ""].filter(Boolean).join(" ");
      return h("td", { role: "cell", class: kind || null, "data-label": column.title, "data-key": column.key }, ...content);
    }));
}
