// What a model answered: question, reasoning, answer, what was read from it, right or wrong.

const MOST_SAMPLES = 16; // shown at first

function samplesPart(run, details) {
  const { shown, total } = details.samples;
  if (!shown.length) return null;
  const names = [...new Set(shown.map((each) => each.benchmark))];
  const benchmark = names.includes(choices.benchmark) ? choices.benchmark : "";
  const words = choices.find.toLowerCase();
  const found = shown.filter((each) => (!benchmark || each.benchmark === benchmark)
    && (!choices.outcome || each.right === (choices.outcome === "right"))
    && (!words || [each.question, each.prompt, each.response, each.reasoning, each.answer, each.expected].join("\n").toLowerCase().includes(words)));
  return h("section", { class: "part", "data-key": "samples", id: "samples", "aria-labelledby": "samples-title" }, h("h3", { id: "samples-title" }, "Samples"),
    h("p", { class: "quiet" }, `${shown.length.toLocaleString("en-US")} of ${plural(total, "sample")}, wrong and right ones in turn. \`jobspec samples ${run.id}\` prints all.`),
    h("div", { class: "controls" },
      names.length > 1 ? options("Benchmark", benchmark, [["", "all"], ...names.map((name) => [name, name])], (name) => choose({ benchmark: name })) : null,
      options("Outcome", choices.outcome, [["", "right and wrong"], ["wrong", "wrong"], ["right", "right"]], (outcome) => choose({ outcome })),
      h("label", { class: "field search" }, h("span", { class: "hidden" }, "Filter samples by text"), h("input", { type: "search", placeholder: "Filter samples by text", value: choices.find, oninput: (event) => choose({ find: event.target.value }) })),
      h("span", { class: "quiet", role: "status" }, plural(found.length, "sample"))),
    (choices.all.includes("samples") ? found : found.slice(0, MOST_SAMPLES)).map(sample),
    found.length > MOST_SAMPLES ? h("p", {}, h("button", { type: "button", onclick: () => choose({ all: toggled(choices.all, "samples") }) }, choices.all.includes("samples") ? "Show fewer samples" : `Show all ${found.length} samples`)) : null);
}

function sample(each) {
  const key = `${each.benchmark} ${each.question} ${each.sample}`;
  const folded = (title, text) => (text ? h("details", { "data-key": title }, h("summary", {}, title), h("div", { class: "text" }, text)) : null);
  return h("article", { class: `sample ${each.right ? "right" : "wrong"}`, "data-key": key },
    h("h4", {}, h("span", { class: `state ${each.right ? "succeeded" : "failed"}` }, each.right ? "right" : "wrong"), ` ${short(each.benchmark)}, question ${each.question}`, h("span", { class: "quiet" }, ` sample ${each.sample}, ${plural(each.tokens, "token")}${each.truncated ? ", cut off by length" : ""}`)),
    h("div", { class: "text prompt" }, each.prompt),
    folded("Reasoning", each.reasoning),
    h("div", { class: "text" }, each.response || "(no answer after the reasoning)"),
    h("dl", { class: "reading" },
      fact("read", each.answer === undefined ? "no answer" : each.answer, each.rule ? h("span", { class: "quiet" }, ` by rule: ${each.rule}`) : null),
      fact("expected", each.expected)));
}
