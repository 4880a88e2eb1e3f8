// One run on its own: results, curves, attempts, settings, origin, log, samples.

function runView(run) {
  const details = wantDetails(run);
  return [
    h("p", { class: "back", "data-key": "back" }, h("a", { href: link("/runs") }, "← all runs")),
    h("h2", { class: "run-title", id: "run-title", tabindex: -1, "data-key": "title" }, swatch(run), " ", run.label, " ", stateTag(run.state)),
    run.state === "failed" ? h("p", { class: "failure", "data-key": "failure" }, h("b", { class: "bad" }, run.why || "failed"), run.message ? `: ${run.message}` : "", run.hint ? h("span", { class: "hint" }, ` hint: ${run.hint}`) : null) : null,
    run.warning ? h("p", { class: "warn", "data-key": "warning" }, run.warning) : null,
    run.waits_for ? h("p", { class: "warn", "data-key": "waits" }, run.waits_for) : null,
    h("p", { "data-key": "pick" }, h("label", {}, h("input", { type: "checkbox", checked: choices.selected.includes(run.short), onchange: () => choose({ selected: toggled(choices.selected, run.short) }) }), " select for comparison"),
      choices.selected.length ? [" · ", h("a", { href: link("/compare") }, `compare ${plural(choices.selected.length, "run")}`)] : null),
    runFacts(run),
    ...(details ? [runCurves(run, details), attemptsPart(run, details), settingsPart(run), originPart(details), logPart(details), samplesPart(run, details)] : [h("p", { "data-key": "loading", role: "status" }, "Loading …")]),
  ];
}

function runFacts(run) {
  const scores = Object.keys(run.scores).map((name) => h("div", { class: "score" }, h("dt", {}, scoreTitle(name)), h("dd", {}, scoreCell(run, name))));
  const facts = [
    ["train loss", figure(run.loss)], ["held-out loss", figure(run.eval_loss)], ["tokens", count(run.tokens)], ["tokens/s", count(run.tokens_per_second)], ["time", hours(run.hours)],
    ["GPU-hours", run.gpu_hours ? figure(run.gpu_hours, 3) : ""], ["attempts", run.attempt > 1 ? String(run.attempt) : ""],
    ["now", run.state === "running" ? `${run.phase || "starting"}${run.progress === undefined ? "" : ` ${percent(run.progress)}`}${run.eta_s === undefined ? "" : `, ${duration(run.eta_s)} left`}` : ""],
    ["worker", [run.worker, run.host].filter(Boolean).join(" on ")], ["user", run.user || ""], ["enqueued", moment(run.enqueued_at)], ["ended", moment(run.ended_at)],
  ];
  return h("dl", { class: "cards", "data-key": "facts" }, scores, facts.filter(([, text]) => text).map(([name, text]) => fact(name, text)));
}

// --- curves

const CURVES = [
  ["learning_rate", "Learning rate"], ["grad_norm", "Gradient norm"], ["tokens_per_second", "Throughput, tokens/s"],
  ["mfu", "Model FLOPs utilization (MFU)"], ["memory_gib", "Peak memory, GiB"],
];

function runCurves(run, details) {
  const { train, held_out: heldOut } = details.curves;
  if (!train.step) return null;
  const x = train[choices.x] ? choices.x : "step";
  const line = (columns, name, extra = {}) => ({ ...series(run, columns, name, x), dash: "none", ...extra });
  const loss = [line(train, "loss", { label: "training" }),
    ...Object.keys(heldOut).filter((name) => name.startsWith("eval_loss") && heldOut[x]).map((name, n) => line(heldOut, name, { id: name, label: name.replace("eval_loss/", "held out: ").replace("eval_loss", "held out"), marked: true, colour: n ? COLOURS[(run.number + n + 1) % COLOURS.length] : "var(--text)", dash: DASHES[1] }))];
  const common = { xTitle: X_TITLES[x], width: chartWidth(3), height: 210 };
  const small = CURVES.filter(([name]) => train[name]).map(([name, title]) => h("figure", { "data-key": name, id: `figure-${name}` }, h("h4", {}, title),
    lineChart([line(train, name)], { ...common, id: name, title, zero: name !== "learning_rate", smooth: name === "grad_norm" ? choices.smooth : 0, spell: name === "mfu" ? (value) => percent(value, 0) : undefined }), chartTable(title, [line(train, name)])));
  return h("section", { class: "part", "data-key": "curves", "aria-labelledby": "curves-title" }, h("h3", { id: "curves-title" }, "Curves"), curveControls(),
    h("figure", { "data-key": "loss", id: "figure-loss" }, h("h4", {}, "Loss"),
      h("p", { class: "keys" }, loss.map((each) => h("span", {}, h("svg", { class: "swatch", width: 22, height: 12, viewBox: "0 0 22 12", "aria-hidden": "true" }, h("line", { x1: 1, x2: 21, y1: 6, y2: 6, stroke: each.colour, "stroke-width": 3, "stroke-dasharray": each.dash })), each.label))),
      lineChart(loss, { ...common, id: "run-loss", title: "Loss", logY: choices.y === "log", smooth: choices.smooth, width: chartWidth(1), height: 260 }), chartTable("Loss", loss)),
    h("div", { class: "charts three" }, small));
}

// --- attempts

function attemptsPart(run, details) {
  const timed = details.attempts.filter((each) => each.started_at);
  if (!details.attempts.length) return null;
  const at = (text) => Date.parse(text);
  const now = at(store.document.made_at);
  const end = (each) => (each.ended_at ? at(each.ended_at) : each.reason ? at(each.started_at) : now);
  const low = Math.min(...timed.map((each) => at(each.started_at))), high = Math.max(...timed.map(end));
  const place = (value) => (100 * (value - low)) / (high - low || 1);
  return h("section", { class: "part", "data-key": "attempts", "aria-labelledby": "attempts-title" }, h("h3", { id: "attempts-title" }, "Attempts"),
    timed.length && high > low ? h("div", { class: "timeline", "aria-hidden": "true" }, timed.map((each) => h("div", { class: "bar", "data-key": String(each.attempt) },
      h("i", { class: each.reason === "succeeded" ? "succeeded" : each.reason ? "failed" : "running", style: { left: `${place(at(each.started_at))}%`, width: `${Math.max(0.6, place(end(each)) - place(at(each.started_at)))}%` } }),
      h("span", {}, `${each.attempt}: ${each.reason || "running"}`)))) : null,
    scroll("Attempts", h("table", {}, h("thead", {}, h("tr", {}, ["Attempt", "Started", "Took", "Ended by", "Step", "Host"].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, details.attempts.map((each) => h("tr", { "data-key": String(each.attempt) }, h("th", { scope: "row" }, String(each.attempt)), h("td", {}, moment(each.started_at)), h("td", {}, duration(each.wall_s)),
        h("td", {}, each.reason || "still running", each.phase && each.reason !== "succeeded" ? ` in ${each.phase}` : "", each.message ? h("div", { class: "quiet" }, each.message) : null, each.hint ? h("div", { class: "hint" }, `hint: ${each.hint}`) : null),
        h("td", {}, each.step === undefined ? "" : figure(each.step)), h("td", {}, each.host || "")))))),
    details.usage.length ? scroll("Time by phase", h("table", { class: "narrow" }, h("caption", {}, "Time by phase. Lost: what no later attempt could continue from."),
      h("thead", {}, h("tr", {}, ["Phase", "Time", "GPU-hours", "Lost", "Energy"].map((title, n) => h("th", { scope: "col", class: n ? "n" : null }, title)))),
      h("tbody", {}, details.usage.map((each) => h("tr", { "data-key": each.phase }, h("th", { scope: "row" }, each.phase), h("td", { class: "n" }, hours(each.hours)), h("td", { class: "n" }, each.gpu_hours ? figure(each.gpu_hours, 3) : ""), h("td", { class: "n" }, each.lost_hours ? hours(each.lost_hours) : ""), h("td", { class: "n" }, each.energy || "not measured")))))) : null);
}

// --- settings, origin, log

const isShown = (name) => name !== "data.sha256"; // it is part of the provenance

function settingsPart(run) {
  const given = new Set(Object.keys(run.settings || {}));
  const names = store.names.filter((name) => isShown(name) && setting(run, name) !== undefined && (given.has(name) || choices.same));
  const important = FIRST.filter((name) => !names.includes(name) && setting(run, name) !== undefined && setting(run, name) !== null);
  return h("section", { class: "part", "data-key": "settings", "aria-labelledby": "settings-title" }, h("h3", { id: "settings-title" }, "Settings"),
    h("p", {}, h("label", {}, h("input", { type: "checkbox", checked: choices.same, onchange: () => choose({ same: !choices.same }) }), " also those at their defaults")),
    h("dl", { class: "pairs" }, [...important, ...names].map((name) => h("div", { "data-key": name, class: given.has(name) ? null : "default" }, h("dt", {}, name), h("dd", {}, spell(setting(run, name)))))));
}

function originPart(details) {
  return h("section", { class: "part", "data-key": "origin", "aria-labelledby": "origin-title" }, h("h3", { id: "origin-title" }, "Provenance"),
    h("dl", { class: "pairs" }, details.origin.map(([name, text]) => h("div", { "data-key": name }, h("dt", {}, name), h("dd", {}, text)))));
}

function logPart(details) {
  if (!details.log) return null;
  return h("section", { class: "part", "data-key": "log", "aria-labelledby": "log-title" }, h("h3", { id: "log-title" }, "End of the log "), h("p", { class: "quiet" }, details.log.name),
    h("pre", { class: "log", tabindex: 0, role: "region", "aria-label": "End of the log" }, details.log.text));
}
