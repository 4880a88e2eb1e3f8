// Line charts in SVG: linear and logarithmic axes, hidden lines, smoothing, a value under the pointer.

const MARGIN = { top: 10, right: 14, bottom: 40, left: 58 };

/** Round positions for an axis from `low` to `high`. */
function ticks(low, high, wanted, logarithmic) {
  if (logarithmic && high / low >= 8) return logTicks(low, high, wanted);
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= raw * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(Number((at * step).toPrecision(12)));
  return found;
}

/** Powers of ten; between few of them also 2 and 5 times. Every tick is labelled in full. */
function logTicks(low, high, wanted) {
  const decades = Math.log10(high / low);
  const factors = decades > wanted / 2 ? [1] : decades > 1.6 ? [1, 3] : [1, 2, 5];
  const every = Math.max(1, Math.ceil(decades / wanted));
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    if (power % every) continue;
    for (const factor of factors) {
      const value = Number((factor * 10 ** power).toPrecision(6));
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  }
  return found;
}

function axis(values, from, to, { logarithmic = false, zero = false, pad = 0 }) {
  let low = Math.min(...values), high = Math.max(...values);
  if (zero) low = Math.min(0, low);
  if (low === high) { low -= Math.abs(low) * 0.1 || 1; high += Math.abs(high) * 0.1 || 1; }
  if (!logarithmic) { const extra = (high - low) * pad; high += extra; if (!zero) low -= extra; }
  const f = logarithmic ? Math.log : (value) => value;
  const place = (value) => from + ((f(value) - f(low)) / (f(high) - f(low))) * (to - from);
  return { low, high, place };
}

/** The exponential mean of the values so far, without the bias to the first one. */
function smoothed(values, weight) {
  let sum = 0, total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = sum * weight + value * (1 - weight);
    total = total * weight + (1 - weight);
    return sum / total;
  });
}

/**
 * A chart of lines.
 *   series: [{id, label, colour, dash, x, y, marked}]
 *   options: {id, title, xTitle, yTitle, logY, zero, smooth, width, spell}
 */
function lineChart(series, options) {
  const width = Math.max(260, options.width), height = options.height || Math.min(300, Math.max(210, width * 0.5));
  const shown = series.map((line) => usable(line, options.logY)).filter((line) => line.x.length);
  if (options.xTitle === X_TITLES.hours) options = { ...options, ...inTimeUnit(shown) };
  const spellY = options.spell || ((value) => figure(value));
  const says = `${options.title}: ${shown.length === 1 ? shown[0].label : plural(shown.length, "line")}`;
  if (!shown.length) return h("p", { class: "quiet" }, "No values to draw.");
  const x = axis(shown.flatMap((line) => line.x), MARGIN.left, width - MARGIN.right, {});
  const y = axis(shown.flatMap((line) => line.y), height - MARGIN.bottom, MARGIN.top, { logarithmic: options.logY, zero: options.zero, pad: 0.04 });
  const lines = shown.flatMap((line) => drawLine(line, x, y, options.smooth || 0));
  const readout = h("div", { class: "readout", "data-keep": true, "aria-hidden": "true" });
  return h("div", { class: "plot", "data-key": `plot-${options.id}` },
    h("svg", {
      viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": says,
      onpointermove: (event) => point(event, shown, x, y, spellY, options), onpointerleave: hidePoint,
    }, grid(x, y, width, height, options, spellY), lines, h("g", { class: "cursor", "data-keep": true })),
    readout);
}

/** Hours as seconds or minutes where that reads better. Changes the lines. */
function inTimeUnit(lines) {
  const longest = Math.max(0, ...lines.flatMap((line) => line.x));
  const [factor, xTitle] = longest < 1 / 30 ? [3600, "seconds"] : longest < 2 ? [60, "minutes"] : [1, "hours"];
  lines.forEach((line) => { line.x = line.x.map((value) => value * factor); });
  return { xTitle };
}

function usable(line, logarithmic) {
  const kept = line.x.map((at, n) => n).filter((n) => line.x[n] !== null && line.y[n] !== null && (!logarithmic || line.y[n] > 0));
  return { ...line, x: kept.map((n) => line.x[n]), y: kept.map((n) => line.y[n]) };
}

function grid(x, y, width, height, options, spellY) {
  const across = ticks(x.low, x.high, Math.max(4, Math.floor(width / 110)), false);
  const up = ticks(y.low, y.high, Math.max(3, Math.floor(height / 55)), options.logY);
  const spellX = options.spellX || ((value) => (value >= 1e4 ? count(value) : figure(value)));
  return h("g", { class: "grid" },
    up.map((value) => [
      h("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y.place(value), y2: y.place(value) }),
      h("text", { class: "ytick", x: MARGIN.left - 7, y: y.place(value) + 4, "text-anchor": "end" }, spellY(value)),
    ]),
    across.map((value) => h("text", { class: "xtick", x: x.place(value), y: height - MARGIN.bottom + 17, "text-anchor": "middle" }, spellX(value))),
    h("line", { class: "base", x1: MARGIN.left, x2: width - MARGIN.right, y1: height - MARGIN.bottom, y2: height - MARGIN.bottom }),
    h("text", { class: "xtitle", x: (MARGIN.left + width - MARGIN.right) / 2, y: height - 5, "text-anchor": "middle" }, options.xTitle));
}

function drawLine(line, x, y, weight) {
  const smooth = weight && line.y.length > 2 && !line.marked ? smoothed(line.y, weight) : null;
  const made = [];
  if (smooth) made.push(stroke(line, line.y, x, y, "raw"));
  made.push(stroke(line, smooth || line.y, x, y, "line"));
  if (line.marked || line.x.length === 1) {
    made.push(...line.x.map((at, n) => h("circle", { cx: x.place(at).toFixed(1), cy: y.place(line.y[n]).toFixed(1), r: 3.5, fill: line.colour })));
  }
  return made;
}

function stroke(line, values, x, y, kind) {
  const d = line.x.map((at, n) => `${n ? "L" : "M"}${x.place(at).toFixed(1)} ${y.place(values[n]).toFixed(1)}`).join("");
  return h("path", { class: kind, d, stroke: line.colour, "stroke-dasharray": kind === "raw" ? "none" : line.dash, "data-run": line.id });
}

/** Show the values nearest to the pointer. */
function point(event, lines, x, y, spellY, options) {
  const svg = event.currentTarget, box = svg.getBoundingClientRect();
  const at = [event.clientX - box.left, event.clientY - box.top];
  let best = null;
  for (const line of lines) {
    line.x.forEach((value, n) => {
      const dx = x.place(value) - at[0], dy = y.place(line.y[n]) - at[1], far = dx * dx + dy * dy * 0.3;
      if (!best || far < best.far) best = { far, line, n };
    });
  }
  const px = x.place(best.line.x[best.n]), py = y.place(best.line.y[best.n]);
  const cursor = svg.querySelector(".cursor");
  cursor.replaceChildren(
    h("line", { x1: px, x2: px, y1: MARGIN.top, y2: box.height - MARGIN.bottom }),
    h("circle", { cx: px, cy: py, r: 5, fill: best.line.colour }));
  const readout = svg.parentElement.querySelector(".readout");
  readout.replaceChildren(h("b", {}, best.line.label), ` ${spellY(best.line.y[best.n])} at ${options.xTitle} ${figure(best.line.x[best.n], 6)}`);
  readout.style.display = "block";
  readout.style.left = `${Math.max(0, Math.min(px + 10, box.width - readout.offsetWidth))}px`;
  readout.style.top = `${Math.max(0, py - 34)}px`;
}

function hidePoint(event) {
  event.currentTarget.querySelector(".cursor").replaceChildren();
  event.currentTarget.parentElement.querySelector(".readout").style.display = "none";
}

/** The same numbers as a table, for screen readers and for copying. */
function chartTable(title, series, spellY = (value) => figure(value)) {
  const rows = series.filter((line) => line.y.some((value) => value !== null));
  const facts = (line) => {
    const values = line.y.filter((value) => value !== null);
    return [values[0], Math.min(...values), Math.max(...values), values[values.length - 1]];
  };
  return h("details", { class: "numbers", "data-key": `numbers-${title}` }, h("summary", {}, `${title} as a table`),
    scroll(`${title} as a table`, h("table", {},
      h("thead", {}, h("tr", {}, ["run", "first", "lowest", "highest", "last"].map((name, n) => h("th", { scope: "col", class: n ? "n" : null }, name)))),
      h("tbody", {}, rows.map((line) => h("tr", { "data-key": line.id }, h("th", { scope: "row" }, line.label), facts(line).map((value) => h("td", { class: "n" }, spellY(value)))))))));
}
