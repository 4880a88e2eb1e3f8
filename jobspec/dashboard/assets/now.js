// What is running and until when, what waits and why, what failed and why.

function nowSection() {
  const runs = store.document.runs;
  const of = (state) => runs.filter((run) => run.state === state);
  const running = of("running"), failed = of("failed").sort((a, b) => (b.ended_at || "").localeCompare(a.ended_at || ""));
  const pending = of("pending").sort((a, b) => (b.priority || 0) - (a.priority || 0) || a.number - b.number);
  const { queue } = store.document;
  const workers = queue.workers_alive ? `${plural(queue.workers_alive, "worker")} alive, ${queue.workers_busy} busy. ` : "";
  const nothing = !running.length && !pending.length && !failed.length;
  return section("now", "Now",
    h("p", { class: "lead" }, workers, nothing ? (runs.length ? "Nothing is running or waiting, and nothing has failed." : "There are no jobs here yet.") : null),
    Object.entries(queue.quarantine).map(([host, why]) => h("p", { class: "warn" }, `${host} is in quarantine: ${why}`)),
    running.length ? group("Running", running, 8, runningItem) : null,
    pending.length ? group("Waiting", pending, 5, waitingItem, queue.nothing_runs ? h("p", { class: "warn" }, `Nothing is claimed: ${queue.nothing_runs}`) : null) : null,
    failed.length ? group("Failed", failed, 5, failedItem) : null);
}

function group(title, runs, most, draw, note = null) {
  const name = title.toLowerCase();
  return h("div", { class: `group ${name}`, "data-key": name },
    h("h3", {}, `${title} `, h("span", { class: "quiet" }, runs.length.toLocaleString("en-US"))), note,
    h("ul", { class: "jobs" }, listed(name, runs, most, draw)));
}

function runningItem(run) {
  const done = run.progress;
  const told = [
    run.done !== undefined && run.total ? `${figure(run.done)} of ${figure(run.total)} ${run.unit || ""}` : null,
    run.loss !== undefined ? `loss ${figure(run.loss)}` : null,
    run.eval_loss !== undefined ? `held-out ${figure(run.eval_loss)}` : null,
    run.tokens_per_second ? `${count(run.tokens_per_second)} tokens/s` : null,
  ].filter(Boolean);
  const left = run.eta_s !== undefined && run.eta_s !== null ? `${duration(run.eta_s)} left, until ${clock(run.eta_s)}` : "";
  return h("li", { "data-key": run.id },
    h("div", { class: "head" }, runName(run), h("span", { class: "phase" }, run.phase || "starting")),
    h("div", { class: "meter" },
      h("progress", { max: 1, value: done ?? null, "aria-label": `${run.label}: ${run.phase || "starting"}` }),
      h("span", { class: "n" }, done === undefined ? "" : percent(done))),
    h("div", { class: "facts" }, told.map((text) => h("span", {}, text)), left ? h("span", { class: "eta" }, left) : null,
      h("span", { class: "quiet" }, [run.worker, run.host].filter(Boolean).join(" on "))),
    run.why ? h("div", { class: "quiet" }, `earlier attempts: ${run.why}`) : null);
}

function waitingItem(run) {
  return h("li", { "data-key": run.id },
    h("div", { class: "head" }, runName(run)),
    h("div", { class: run.waits_for ? "warn" : "quiet" }, run.waits_for || "waits for a worker to be free"),
    run.why ? h("div", { class: "quiet" }, `earlier attempts: ${run.why}`) : null);
}

function failedItem(run) {
  return h("li", { "data-key": run.id },
    h("div", { class: "head" }, runName(run), h("span", { class: "quiet" }, moment(run.ended_at))),
    h("div", {}, h("b", { class: "bad" }, run.why || "failed"), run.message ? `: ${run.message}` : ""),
    run.hint ? h("div", { class: "hint" }, `hint: ${run.hint}`) : null);
}
