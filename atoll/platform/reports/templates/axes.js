// Axes of figures: ranges, ticks, numbers as text, and the widths of texts.
"use strict";

const FONT = "12px system-ui, sans-serif";
const ruler = document.createElement("canvas").getContext("2d");
ruler.font = FONT;

/** Width of a text in pixels. */
function widthOf(text) {
  return ruler.measureText(text).width;
}

/** A text that is at most so wide, cut with an ellipsis. */
function fitted(text, width) {
  if (widthOf(text) <= width) return text;
  let end = text.length;
  while (end > 0 && widthOf(text.slice(0, end) + "…") > width) end -= 1;
  return text.slice(0, end) + "…";
}

/** The smallest and the largest of the numbers, null where there are none. */
function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value === null || value === undefined) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}

/** A range with room at both ends; at none if that end is `fixed`. */
function padded([low, high], share, fixed = null) {
  const room = share * (high - low) || Math.abs(high) * share || 0.01;
  return [low === fixed ? low : low - room, high === fixed ? high : high + room];
}

/** Steps of 1, 2 or 5 times a power of ten in a range, about so many. */
function ticksOf([low, high], count, whole = false) {
  const raw = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= raw * 0.999);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let place = Math.ceil(low / step - 1e-9); place <= high / step + 1e-9; place += 1) {
    found.push(place * step);
  }
  return { step, at: found };
}

const SUFFIXES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

/** The labels of ticks, all with as many digits as tell them apart. */
function labelsOf({ step, at }) {
  const largest = Math.max(...at.map(Math.abs), 0);
  if (largest > 0 && largest < 1e-3) return at.map((value) => value.toExponential(1));
  const [scale, suffix] = (largest >= 1e4 && SUFFIXES.find(([each]) => largest >= each)) || [1, ""];
  const digits = Math.max(0, -Math.floor(Math.log10(step / scale) + 1e-9));
  return at.map((value) => (value / scale).toFixed(Math.min(digits, 8)) + suffix);
}

/** A number for a person: four digits that count, and whole numbers whole. */
function shown(value) {
  if (value === null || value === undefined) return "-";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e9) return value.toExponential(3);
  return String(Number(value.toPrecision(size >= 1e4 ? Math.ceil(Math.log10(size)) : 4)));
}

const NAMESPACE = "http://www.w3.org/2000/svg";

/** A new SVG element in another one. */
function add(parent, name, attributes = {}, text = null) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  // Names come from files: they are text, and never markup.
  if (text !== null) made.textContent = text;
  parent.appendChild(made);
  return made;
}

/** The class of a colour; grey is -1. */
function colorOf(number) {
  if (number < 0) return "grey";
  return `k${number % 10}`;
}

const SYMBOLS = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0z`,
  (r) => `M0,${-1.2 * r}L${1.2 * r},${r}L${-1.2 * r},${r}z`,
  (r) => `M0,${1.2 * r}L${1.2 * r},${-r}L${-1.2 * r},${-r}z`,
];

/** The path of a mark. */
function symbolOf(number, radius) {
  return SYMBOLS[number % SYMBOLS.length](radius);
}

const DASHES = { solid: null, dot: "2 4", dash: "7 4" };

/** Rows of a legend below a figure: which entries are in which, and how wide each is. */
function legendRows(entries, width) {
  const rows = [];
  let row = null, used = 0;
  for (const entry of entries) {
    const text = fitted(entry.name, width - 34);
    const taken = 30 + widthOf(text) + 16;
    if (row === null || used + taken - 16 > width) {
      row = [];
      rows.push(row);
      used = 0;
    }
    row.push({ ...entry, text, at: used });
    used += taken;
  }
  return rows;
}
