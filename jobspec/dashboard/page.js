// Draws the charts, sorts the tables, follows the theme, and refreshes the page if a server made it.
"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  let chosen = null; // by the button; null follows the system
  let printing = false;

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function layout(figure, width) {
    const axis = { gridcolor: colour("--grid"), linecolor: colour("--line"), zeroline: false, automargin: true };
    const given = figure.layout;
    const narrow = width < 480;
    return {
      ...given,
      autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--text"), size: narrow ? 11 : 13, family: getComputedStyle(document.body).fontFamily },
      margin: { l: 55, r: 12, t: 34, b: 50 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--link") },
      xaxis: { ...axis, ...given.xaxis },
      yaxis: { ...axis, ...given.yaxis },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, font: { size: narrow ? 10 : 12 } },
      hoverlabel: { namelength: -1 },
      uirevision: "kept",
    };
  }

  function draw(chart) {
    const figure = JSON.parse(chart.parentElement.querySelector("script").textContent);
    const options = {
      responsive: true,
      displaylogo: false,
      displayModeBar: !printing,
      modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
    };
    Plotly.react(chart, figure.data, layout(figure, chart.clientWidth), options);
  }

  const drawAll = () => document.querySelectorAll(".chart").forEach(draw);

  function theme() {
    const wanted = printing ? "light" : chosen || (dark.matches ? "dark" : "light");
    root.dataset.theme = wanted;
    button.textContent = wanted === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(wanted === "dark"));
    drawAll();
  }

  // --- tables

  function key(cell) {
    const given = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(given.replace(/[,%]/g, ""));
    return given === "" ? null : Number.isNaN(number) ? given.toLowerCase() : number;
  }

  function compare(a, b) {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  }

  function sort(table, column, order) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((th, at) => (at === column ? th.setAttribute("aria-sort", order) : th.removeAttribute("aria-sort")));
    const sign = order === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, key: key(row.cells[column]) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null); // empty ones last
      return sign * compare(a.key, b.key);
    });
    body.append(...rows.map(({ row }) => row));
  }

  document.addEventListener("click", (event) => {
    const clicked = event.target.closest("button.sort");
    if (!clicked) return;
    const head = clicked.closest("th");
    const down = head.getAttribute("aria-sort") === "ascending";
    sort(head.closest("table"), head.cellIndex, down ? "descending" : "ascending");
  });

  // --- refreshed by the server

  function renew(html) {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    for (const section of fresh.querySelectorAll("section")) {
      const old = document.getElementById(section.id);
      if (old && old.dataset.was !== section.innerHTML) replace(old, section);
    }
    drawAll();
  }

  // Keeps the reader's view: sorted columns, open details, zoomed charts, the focus.
  function replace(old, fresh) {
    const was = fresh.innerHTML;
    const sorted = [...old.querySelectorAll("table")].map((table) => table.querySelector("th[aria-sort]"));
    const open = new Set([...old.querySelectorAll("details[open] > summary")].map((s) => s.textContent));
    const focused = old.contains(document.activeElement) ? document.activeElement.textContent : null;
    for (const chart of fresh.querySelectorAll(".chart")) {
      const drawn = old.querySelector(`#${CSS.escape(chart.parentElement.id)} .chart`);
      if (drawn) chart.replaceWith(drawn);
    }
    old.replaceChildren(...fresh.childNodes);
    old.dataset.was = was;
    old.querySelectorAll("details > summary").forEach((s) => (s.parentElement.open = open.has(s.textContent)));
    old.querySelectorAll("table").forEach((table, at) => {
      if (sorted[at]) sort(table, sorted[at].cellIndex, sorted[at].getAttribute("aria-sort"));
    });
    if (focused !== null) {
      const again = [...old.querySelectorAll("button, summary, [tabindex]")].find((e) => e.textContent === focused);
      if (again) again.focus({ preventScroll: true });
    }
  }

  function follow() {
    const status = document.getElementById("live");
    const source = new EventSource("events");
    source.addEventListener("changed", async (event) => {
      const answer = await fetch("content");
      if (!answer.ok) return;
      renew(await answer.text());
      document.getElementById("made").textContent = event.data;
    });
    source.onopen = () => { status.textContent = "live"; status.className = ""; };
    source.onerror = () => { status.textContent = "the server does not answer"; status.className = "lost"; };
  }

  button.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    theme();
  });
  dark.addEventListener("change", theme);
  addEventListener("beforeprint", () => {
    printing = true;
    document.querySelectorAll("details.origin").forEach((origin) => (origin.open = true));
    theme();
  });
  addEventListener("afterprint", () => { printing = false; theme(); });
  theme();
  if ("live" in document.body.dataset) follow();
  root.dataset.ready = "yes"; // the charts are drawn
})();
