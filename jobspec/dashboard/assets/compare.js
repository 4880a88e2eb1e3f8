// Several runs side by side: settings, curves, scores, paired differences.

function compareSection() {
  const runs = compared();
  const selected = choices.selected.length > 0;
  if (!runs.length) return section("compare", "Compare", h("p", {}, "No run has losses or scores yet."));
  runs.forEach((run) => wantDetails(run));
  return section("compare", "Compare",
    h("p", { class: "lead" }, selected ? `${plural(runs.length, "selected run")}.` : `The newest ${plural(runs.length, "run")}. Select runs in the table to compare others.`,
      runs.length > 28 ? " More than 28 runs do not all differ in colour and dash." : ""),
    h("div", { class: "legend", role: "group", "aria-label": "Show or hide runs" }, runs.map((run) =>
      h("button", { type: "button", class: "toggle", "data-key": run.id, "aria-pressed": String(!choices.hidden.includes(run.short)), onclick: () => choose({ hidden: toggled(choices.hidden, run.short) }) }, swatch(run), h("span", {}, run.label)))),
    settingsTable(runs), curvesPart(runs), scoresPart(runs), epochsPart(runs), pairsPart(runs));
}

// --- settings

function settingsTable(runs) {
  if (runs.length < 2) return null;
  const names = store.names.filter((name) => isSetting(name) && runs.some((run) => setting(run, name) !== undefined));
  const differing = names.filter((name) => differs(runs, name));
  const shown = choices.same ? names : differing;
  return h("div", { class: "part", "data-key": "settings" }, h("h3", {}, "Settings"),
    h("p", {}, h("label", {}, h("input", { type: "checkbox", checked: choices.same, onchange: () => choose({ same: !choices.same }) }), " also those that are the same")),
    shown.length ? scroll("Settings side by side", h("table", { class: "settings" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Setting"), runs.map((run) => h("th", { scope: "col", "data-key": run.id }, runName(run))))),
      h("tbody", {}, shown.map((name) => h("tr", { "data-key": name, class: differing.includes(name) ? "differs" : null }, h("th", { scope: "row" }, name), runs.map((run, n) => settingCell(run, name, n ? runs[0] : null)))))))
      : h("p", { class: "quiet" }, "All settings are the same."));
}

/** A value; marked if it is not the first run's. */
function settingCell(run, name, first) {
  const value = setting(run, name);
  const other = first !== null && value !== setting(first, name) && differs(compared(), name);
  return h("td", { class: other ? "other" : null, "data-key": run.id }, other ? h("span", { class: "hidden" }, "differs: ") : null, value === undefined ? "–" : spell(value));
}

// --- curves

function curvesPart(runs) {
  const visible = runs.filter((run) => !choices.hidden.includes(run.short));
  const loaded = visible.map((run) => [run, store.details.get(run.id)]).filter(([, details]) => details);
  const train = loaded.map(([run, details]) => series(run, details.curves.train, "loss", choices.x)).filter(Boolean);
  const heldOut = loaded.map(([run, details]) => series(run, details.curves.held_out, "eval_loss", choices.x, true)).filter(Boolean);
  if (!loaded.some(([, details]) => details.curves.train.loss)) return null;
  return h("div", { class: "part", "data-key": "curves" }, h("h3", {}, "Loss curves"), curveControls(),
    h("div", { class: "charts" }, lossChart("Training loss", "loss", train, choices.smooth), lossChart("Held-out loss", "eval_loss", heldOut, 0)));
}

function curveControls() {
  return h("div", { class: "controls" },
    options("Over", choices.x, Object.entries(X_TITLES), (x) => choose({ x })),
    options("Scale", choices.y, [["linear", "linear"], ["log", "logarithmic"]], (y) => choose({ y })),
    h("label", { class: "field" }, "Smoothing ", h("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: choices.smooth, "aria-valuetext": percent(choices.smooth), oninput: (event) => choose({ smooth: Number(event.target.value) }) }), h("output", {}, percent(choices.smooth))));
}

/** One run's line over the chosen axis; null if it has no such column. */
function series(run, columns, name, x, marked = false) {
  if (!columns || !columns[name] || !columns[x]) return null;
  return { id: run.id, label: run.label, colour: colour(run), dash: dash(run), x: columns[x], y: columns[name], marked };
}

function lossChart(title, id, lines, smooth) {
  return h("figure", { "data-key": id, id: `figure-${id}` }, h("h4", {}, title),
    lines.length ? [lineChart(lines, { id, title, xTitle: X_TITLES[choices.x], logY: choices.y === "log", smooth, width: chartWidth(2) }), chartTable(title, lines)]
      : h("p", { class: "quiet" }, "No values over this axis."));
}

/** Scores of the weights after each epoch, where epochs were scored. */
function epochsPart(runs) {
  const lines = (name) => runs.filter((run) => !choices.hidden.includes(run.short)).map((run) => {
    const found = (store.details.get(run.id)?.by_epoch || []).filter((each) => each.scores[name]);
    return found.length > 1 ? { id: run.id, label: run.label, colour: colour(run), dash: dash(run), x: found.map((each) => each.epoch), y: found.map((each) => each.scores[name].value), marked: true } : null;
  }).filter(Boolean);
  const drawn = store.benchmarks.map((name) => [name, lines(name)]).filter(([, found]) => found.length);
  if (!drawn.length) return null;
  return h("div", { class: "part", "data-key": "epochs" }, h("h3", {}, "Scores by epoch"), h("div", { class: "charts" }, drawn.map(([name, found]) =>
    h("figure", { "data-key": name, id: `figure-epochs-${name}` }, h("h4", {}, scoreTitle(name)), lineChart(found, { id: `epochs-${name}`, title: `${name} by epoch`, xTitle: "epoch", width: chartWidth(2), spell: (value) => value.toFixed(2) }), chartTable(`${scoreTitle(name)} by epoch`, found, fixed)))));
}

// --- scores

function scoresPart(runs) {
  const names = store.benchmarks.filter((name) => runs.some((run) => run.scores[name]));
  if (!names.length) return null;
  return h("div", { class: "part", "data-key": "scores" }, h("h3", {}, "Scores"),
    h("p", { class: "quiet" }, "With 95 % intervals. Where a run's interval overlaps the highest one's, the two intervals do not decide which is better."),
    names.map((name) => scoreTable(name, runs.filter((run) => run.scores[name]))));
}

function scoreTable(name, runs) {
  const score = (run) => run.scores[name];
  const ordered = [...runs].sort((a, b) => (better(score(a), score(a).value, score(b).value) ? -1 : score(a).value === score(b).value ? 0 : 1));
  const [top] = ordered;
  const edges = runs.flatMap((run) => ends(score(run)));
  const low = Math.min(...edges), span = Math.max(...edges) - low || 1;
  const at = (value) => `${(100 * (value - low)) / span}%`;
  const outcome = (run) => {
    if (run === top) return runs.length > 1 ? "highest" : "";
    if (score(run).metric !== score(top).metric) return "another metric";
    if (!known(score(run)) || !known(score(top))) return "not decided: no interval";
    return overlap(score(run), score(top)) ? "not decided" : score(top).lower_is_better ? "higher" : "lower";
  };
  return h("div", { class: "forest", "data-key": name }, scroll(`Scores on ${name}`, h("table", { class: "scores" },
    h("caption", {}, scoreTitle(name), score(top).lower_is_better ? ", lower is better" : ""),
    h("thead", {}, h("tr", {}, ["Run", "Score", "95 % interval", "", "Against the first"].map((title, n) => (title ? h("th", { scope: "col", class: n === 1 ? "n" : null }, title) : h("td", { class: "plotted" }))))),
    h("tbody", {}, ordered.map((run) => h("tr", { "data-key": run.id },
      h("th", { scope: "row" }, runName(run)), h("td", { class: "n" }, fixed(score(run).value)),
      h("td", {}, known(score(run)) ? `${score(run).low.toFixed(3)} to ${score(run).high.toFixed(3)}` : "unknown"),
      h("td", { class: "plotted", "aria-hidden": "true" }, h("div", { class: "whisker" },
        h("i", { style: { left: at(ends(score(run))[0]), width: `${(100 * (ends(score(run))[1] - ends(score(run))[0])) / span}%`, background: colour(run) } }),
        h("b", { style: { left: at(score(run).value), background: colour(run) } }))),
      h("td", { class: outcome(run).startsWith("not decided") ? "undecided" : null }, outcome(run).replace("highest", score(top).lower_is_better ? "lowest" : "highest"))))))));
}

// --- paired differences

function pairsPart(runs) {
  const scored = runs.filter((run) => Object.keys(run.scores).length);
  if (scored.length < 2) return null;
  const [first] = scored;
  const rows = scored.slice(1).flatMap((run) => (differences(first, run) || []).map((each) => ({ run, ...each })));
  const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(3)}`;
  return h("div", { class: "part", "data-key": "pairs" }, h("h3", {}, "Paired differences"),
    h("p", { class: "quiet" }, "From ", runName(first), ", question by question, with 95 % intervals. Select that run first which the others are to be compared with."),
    rows.length ? scroll("Paired differences", h("table", {},
      h("thead", {}, h("tr", {}, ["Run", "Benchmark", "Difference", "95 % interval", "p", "Questions", ""].map((title, n) => (title ? h("th", { scope: "col", class: n > 1 ? "n" : null }, title) : h("th", { scope: "col" }, "Decided"))))),
      h("tbody", {}, rows.map((each) => h("tr", { "data-key": `${each.run.id} ${each.benchmark}` }, h("th", { scope: "row" }, runName(each.run)), h("td", {}, short(each.benchmark)),
        h("td", { class: "n" }, signed(each.mean)), h("td", { class: "n" }, typeof each.low !== "number" ? "unknown" : `${signed(each.low)} to ${signed(each.high)}`),
        h("td", { class: "n" }, probability(each.p_value)), h("td", { class: "n" }, String(each.questions)),
        h("td", { class: each.beyond_noise ? null : "undecided" }, each.beyond_noise ? (each.mean > 0 !== Boolean(each.lower_is_better) ? "better" : "worse") : "not decided"))))))
      : h("p", { class: "quiet" }, store.document.live ? "These runs have no questions in common that were measured in the same way." : "None in this file for these runs: `jobspec compare A B` computes them."));
}

/** B − A of each benchmark. A file has some pairs; the live page asks for them. */
function differences(a, b) {
  const key = `${a.id}/${b.id}`;
  if (store.pairs.has(key)) return store.pairs.get(key);
  if (store.document.live) return void wantPair(a, b);
  const flip = (each) => ({ ...each, mean: -each.mean, low: each.high === undefined ? undefined : -each.high, high: each.low === undefined ? undefined : -each.low });
  const found = [
    ...store.document.pairs.filter((each) => each.a === a.id && each.b === b.id),
    ...store.document.pairs.filter((each) => each.a === b.id && each.b === a.id).map(flip),
  ];
  store.pairs.set(key, found);
  return found;
}
