// Parts that several views share.

/** A box that scrolls sideways if it must, and that the keyboard can reach. */
const scroll = (label, ...children) => h("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 }, ...children);

/** A run's colour, as it is everywhere; its dash tells runs of one colour apart. */
const swatch = (run) => h("svg", { class: "swatch", width: 22, height: 12, viewBox: "0 0 22 12", "aria-hidden": "true" },
  h("line", { x1: 1, x2: 21, y1: 6, y2: 6, stroke: colour(run), "stroke-width": 4, "stroke-dasharray": dash(run) }));

const runName = (run) => h("a", { class: "run", href: runLink(run) }, swatch(run), h("span", {}, run.label));

const stateTag = (state) => h("span", { class: `state ${state}` }, stateWord(state));

function section(name, title, ...children) {
  return h("section", { id: name, "data-key": name, "aria-labelledby": `${name}-title` },
    h("h2", { id: `${name}-title`, tabindex: -1 }, title), ...children);
}

/** A button that is pressed or not. */
const toggle = (pressed, onclick, ...children) => h("button", { type: "button", class: "toggle", "aria-pressed": String(pressed), onclick }, ...children);

/** A choice of one of several words. */
function options(label, value, words, onchange) {
  return h("label", { class: "field" }, `${label} `,
    h("select", { onchange: (event) => onchange(event.target.value) },
      words.map(([key, word]) => h("option", { value: key, selected: key === value }, word))));
}

/** The first items of a list, and a button for the rest. */
function listed(name, items, most, draw) {
  const all = choices.all.includes(name) || items.length <= most;
  return [
    ...(all ? items : items.slice(0, most)).map(draw),
    all && items.length <= most ? null : h("li", { class: "more", "data-key": `more-${name}` }, h("button", { type: "button", onclick: () => choose({ all: toggled(choices.all, name) }) },
      all ? "Show fewer" : `Show all ${items.length.toLocaleString("en-US")}`)),
  ];
}

const fact = (name, ...text) => h("div", {}, h("dt", {}, name), h("dd", {}, ...text));

/** How wide a chart can be, if `columns` of them stand side by side where there is room. */
function chartWidth(columns) {
  const inner = Math.min(document.documentElement.clientWidth, 1440) - (document.documentElement.clientWidth < 640 ? 24 : 48);
  const fit = inner >= 760 ? columns : 1;
  return Math.floor((inner - (fit - 1) * 20) / fit) - 26;
}

const X_TITLES = { step: "step", epoch: "epoch", tokens: "tokens", hours: "time" };

/** A score with its interval and its mark. */
function scoreCell(run, benchmark) {
  const score = run.scores[benchmark];
  if (!score) {
    const why = (run.failed || {})[benchmark];
    return why ? h("span", { class: "bad", title: why }, "no score") : "";
  }
  const mark = store.standing.get(benchmark).get(run.id);
  return [
    h("span", { class: mark === "best" ? "value best" : "value" }, fixed(score.value),
      mark ? h("abbr", { title: mark === "best" ? "the best: its interval lies beyond all others" : "may be the best: not decided against the highest score" }, mark === "best" ? " ★" : " ≈") : null,
      score.truncated_frac > 0.1 ? h("abbr", { class: "cut", title: `${percent(score.truncated_frac)} of the answers were cut off by length` }, " !") : null),
    known(score) ? h("small", {}, `${score.low.toFixed(2)} to ${score.high.toFixed(2)}`) : null,
  ];
}
