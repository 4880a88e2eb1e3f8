// Numbers, times and names as a reader wants them.

/** Four digits at most; small and large numbers with an exponent: 0.4213, 1,204, 1e-5. */
function figure(value, digits = 4) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size < 1e-3 || size >= 1e7) return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(digits)));
}

const fixed = (value) => (value === null || value === undefined ? "" : value.toFixed(3));
const percent = (value, digits = 0) => `${(100 * value).toFixed(digits)} %`;

/** 1234567 → 1.23 M */
function count(value) {
  if (value === null || value === undefined) return "";
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (value >= size) return `${Number((value / (unit === "k" ? 1e3 : size)).toPrecision(3))} ${unit}`;
  }
  return Math.round(value).toLocaleString("en-US");
}

/** 45 s, 12 min, 2 h 05 min, 3 d 4 h */
function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 99.5) return `${seconds < 10 ? Number(seconds.toFixed(1)) : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const hours = (value) => (value === null || value === undefined ? "" : duration(3600 * value));

/** A time as `2026-11-22 10:00` in UTC. */
const moment = (text) => (text ? `${text.slice(0, 16).replace("T", " ")} UTC` : "");

/** When something that takes `seconds` more will end, by the reader's clock. */
function clock(seconds) {
  const end = new Date(Date.parse(store.document.made_at) + 1000 * seconds);
  const time = end.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return seconds < 20 * 3600 ? time : `${end.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

/** A setting's value: numbers as they were meant, other values as they are. */
function spell(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  const small = value !== 0 && Math.abs(value) < 0.01;
  return small ? value.toExponential().replace("e+", "e") : figure(value, 6);
}

const plural = (number, noun) => `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;

/** A benchmark's short name. */
const short = (benchmark) => benchmark.replace(/^minerva_/, "");

/** A p-value. */
const probability = (value) => (value === null || value === undefined ? "" : value < 0.001 ? "< 0.001" : value.toFixed(3));
