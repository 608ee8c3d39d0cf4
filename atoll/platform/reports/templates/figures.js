// Figures, drawn as SVG at the width that they have. Each function returns what is under a point.
"use strict";

const ROW = 19, TITLE = 18, TICK = 16;

/** An empty figure: margins for its axes, and the legend below, which covers nothing. */
function frame(spec, width, plotHeight, sizes, entries) {
  const rows = legendRows(entries, width - 8);
  const top = 8, right = sizes.right ?? 14;
  const left = sizes.left + (spec.y_title ? TITLE : 4);
  const below = sizes.below + (spec.x_title ? TITLE : 4);
  const height = top + plotHeight + below + (rows.length ? 8 + ROW * rows.length : 0);
  const svg = document.createElementNS(NAMESPACE, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("class", "figure");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", spec.title);
  const box = { left, top, width: Math.max(20, width - left - right), height: plotHeight };
  if (spec.y_title) {
    const y = top + plotHeight / 2;
    const turned = { class: "title", "text-anchor": "middle", x: 12, y };
    turned.transform = `rotate(-90 12 ${y})`;
    add(svg, "text", turned, fitted(spec.y_title, plotHeight + 30));
  }
  if (spec.x_title) {
    const at = { class: "title", "text-anchor": "middle", x: left + box.width / 2 };
    add(svg, "text", { ...at, y: top + plotHeight + below - 6 }, fitted(spec.x_title, box.width));
  }
  drawLegend(svg, rows, top + plotHeight + below + 8);
  return { svg, box };
}

function drawLegend(svg, rows, top) {
  rows.forEach((row, line) => {
    for (const entry of row) {
      const group = add(svg, "g", {
        class: `entry${entry.hidden ? " hidden" : ""}`,
        transform: `translate(${4 + entry.at} ${top + ROW * line + 8})`,
        "data-series": entry.series,
      });
      const color = entry.grey ? "grey" : colorOf(entry.color);
      if (entry.mark === "bar") {
        add(group, "rect", { class: `fill ${color}`, x: 6, y: -5, width: 14, height: 10 });
      } else {
        if (entry.mark !== "points") {
          const dash = { "stroke-dasharray": DASHES[entry.dash ?? "solid"] };
          const line = { x1: 0, x2: 24, y1: 0, y2: 0, "stroke-width": entry.width ?? 2, ...dash };
          add(group, "line", { class: `stroke ${color}`, ...line });
        }
        if (entry.mark !== "line") {
          const d = symbolOf(entry.symbol ?? 0, 4.5);
          add(group, "path", { class: `fill ${color}`, d, transform: "translate(12 0)" });
        }
      }
      const label = add(group, "text", { x: 30, y: 4 }, entry.text);
      if (entry.text !== entry.name) add(label, "title", {}, entry.name);
    }
  });
}

function yAxis(svg, box, range, ticks, spec) {
  const labels = tickLabels(spec, ticks);
  const place = (v) => box.top + box.height * (1 - (v - range[0]) / (range[1] - range[0]));
  ticks.at.forEach((value, number) => {
    const y = place(value);
    add(svg, "line", { class: "grid", x1: box.left, x2: box.left + box.width, y1: y, y2: y });
    const at = { class: "tick", "text-anchor": "end", x: box.left - 6, y: y + 4 };
    add(svg, "text", at, labels[number]);
  });
  return place;
}

/** Labels of categories below a figure: upright if they fit, else turned; some if they are many. */
function categoryLabels(names, slot) {
  const widest = Math.max(...names.map(widthOf), 0);
  const isTurned = widest > slot - 6;
  const room = isTurned ? Math.min(110, widest) : widest;
  const every = Math.max(1, Math.ceil((isTurned ? 15 : widest + 8) / slot));
  return { isTurned, every, below: isTurned ? room + 10 : TICK, room };
}

function drawCategories(svg, box, names, labels, center) {
  names.forEach((name, number) => {
    if (number % labels.every) return;
    const x = center(number), y = box.top + box.height + (labels.isTurned ? 8 : 15);
    const at = { class: "tick", x, y, "text-anchor": labels.isTurned ? "end" : "middle" };
    if (labels.isTurned) at.transform = `translate(4 0) rotate(-90 ${x} ${y})`;
    const text = fitted(name, labels.isTurned ? labels.room : Infinity);
    const label = add(svg, "text", at, text);
    if (text !== name) add(label, "title", {}, name);
  });
}

/** The labels of ticks; of exponents, the powers of ten. */
function tickLabels(spec, ticks) {
  return spec.powers ? ticks.at.map((value) => meant(spec, value)) : labelsOf(ticks);
}

/** A value of a figure for a person. */
function meant(spec, value) {
  return shown(spec.powers && value !== null ? Number((10 ** value).toPrecision(4)) : value);
}

/** Curves, points and bars over numbers or categories. */
function drawCurves(spec, width, state) {
  const series = [...spec.series, ...(state.chosen ?? [])];
  const visible = series.filter((each, number) => !state.hidden.has(number));
  const entries = series.map((each, n) => ({ ...each, series: n, hidden: state.hidden.has(n) }));
  if (spec.level) {
    const name = `${spec.level.name}: ${shown(spec.level.y)}`;
    entries.push({ name, grey: true, mark: "line", dash: "dash", series: -1 });
  }
  const named = series.length > 1 || series[0]?.named || spec.level ? entries : [];
  const range = yRange(spec, visible, state);
  const plotHeight = spec.height ?? 230;
  const ticks = ticksOf(range, plotHeight / 36, spec.powers);
  const left = Math.max(...tickLabels(spec, ticks).map(widthOf), 10) + 10;
  const slot = spec.categories ? (width - left - 32) / spec.categories.length : 0;
  const labels = spec.categories ? categoryLabels(spec.categories, slot) : null;
  const sizes = { left, below: labels?.below ?? TICK };
  const { svg, box } = frame(spec, width, plotHeight, sizes, named);
  const y = yAxis(svg, box, range, ticks, spec);
  const x = spec.categories
    ? (number) => box.left + (box.width * (number + 0.5)) / spec.categories.length
    : numbersBelow(svg, box, xRange(visible, state), spec);
  if (labels) drawCategories(svg, box, spec.categories, labels, x);
  const base = box.top + box.height;
  add(svg, "line", { class: "axis", x1: box.left, x2: box.left + box.width, y1: base, y2: base });
  const inside = clipped(svg, box);
  if (spec.level) {
    const at = { x1: box.left, x2: box.left + box.width, y1: y(spec.level.y), y2: y(spec.level.y) };
    add(inside, "line", { class: "stroke grey", "stroke-dasharray": DASHES.dash, ...at });
  }
  const bars = visible.filter((each) => each.mark === "bar");
  const slotWidth = box.width / (spec.categories?.length ?? 1);
  for (const each of visible) {
    if (each.mark === "bar") drawBars(inside, each, x, y, slotWidth, bars);
    else drawSeries(inside, each, x, y);
  }
  return { svg, box, find: (px, py) => nearest(spec, visible, x, y, px, py), x, y };
}

let clips = 0;

function clipped(svg, box) {
  clips += 1;
  const clip = add(svg, "clipPath", { id: `clip${clips}` });
  const at = { x: box.left - 1, y: box.top - 6, width: box.width + 8, height: box.height + 7 };
  add(clip, "rect", at);
  return add(svg, "g", { "clip-path": `url(#clip${clips})` });
}

function yRange(spec, visible, state) {
  if (state.view) return state.view.y;
  if (spec.range && !state.full) return padded(spec.range, 0.06);
  const hasBars = visible.some((each) => each.mark === "bar");
  const values = visible.flatMap((each) => [...each.y, ...(each.low ?? []), ...(each.high ?? [])]);
  if (spec.level) values.push(spec.level.y);
  const found = extent(hasBars ? [...values, 0] : values) ?? [0, 1];
  return padded(found, 0.06, hasBars ? 0 : null);
}

function xRange(visible, state) {
  if (state.view) return state.view.x;
  const found = extent(visible.flatMap((each) => each.x)) ?? [0, 1];
  const isLine = visible.every((each) => each.mark === "line");
  if (found[0] === found[1]) return [found[0] - 0.5, found[1] + 0.5];
  return isLine ? found : padded(found, 0.05);
}

function numbersBelow(svg, box, range, spec) {
  const place = (v) => box.left + (box.width * (v - range[0])) / (range[1] - range[0]);
  const ticks = ticksOf(range, box.width / 70, spec.whole);
  const labels = tickLabels(spec, ticks);
  ticks.at.forEach((value, number) => {
    const at = { class: "tick", "text-anchor": "middle", y: box.top + box.height + 15 };
    add(svg, "text", { ...at, x: place(value) }, labels[number]);
  });
  return place;
}

function drawSeries(parent, each, x, y) {
  const color = colorOf(each.color);
  const points = each.x.map((value, n) => [value, each.y[n], n]).filter(([, v]) => v !== null);
  if (each.low && !each.error) {
    const there = points.filter(([, , n]) => each.low[n] !== null);
    const up = there.map(([v, , n]) => `${x(v)},${y(each.high[n])}`);
    const down = there.map(([v, , n]) => `${x(v)},${y(each.low[n])}`).reverse();
    if (up.length) add(parent, "path", { class: `band ${color}`, d: `M${up.concat(down).join("L")}z` });
  }
  if (each.mark !== "points") {
    const d = points.map(([v, w]) => `${x(v).toFixed(1)},${y(w).toFixed(1)}`).join("L");
    const dash = DASHES[each.dash ?? "solid"];
    const style = { "stroke-width": each.width ?? 2, "stroke-dasharray": dash };
    if (points.length) add(parent, "path", { class: `stroke ${color}`, d: `M${d}`, ...style });
  }
  for (const [v, w, n] of points) {
    if (each.error && each.low[n] !== null) {
      const at = { x1: x(v), x2: x(v), y1: y(each.low[n]), y2: y(each.high[n]) };
      add(parent, "line", { class: `stroke ${color}`, "stroke-width": 1, ...at });
    }
    // A curve of a single round would not be seen.
    if (each.mark !== "line" || points.length === 1) {
      const d = symbolOf(each.symbols?.[n] ?? each.symbol ?? 0, each.mark === "line" ? 3 : 4.5);
      add(parent, "path", { class: `fill ${color}`, d, transform: `translate(${x(v)} ${y(w)})` });
    }
  }
}

function drawBars(parent, each, x, y, slot, bars) {
  const thick = Math.min(46, (slot * 0.76) / bars.length);
  const shift = (bars.indexOf(each) - (bars.length - 1) / 2) * thick;
  each.y.forEach((value, n) => {
    if (value === null) return;
    const [top, base] = [Math.min(y(value), y(0)), Math.max(y(value), y(0))];
    const at = { x: x(each.x[n]) + shift - thick / 2, y: top, width: thick, height: base - top };
    add(parent, "rect", { class: `fill ${colorOf(each.color)}`, ...at });
  });
}

function nearest(spec, visible, x, y, px, py) {
  let best = null;
  for (const each of visible) {
    each.x.forEach((value, n) => {
      if (each.y[n] === null) return;
      const isBar = each.mark === "bar";
      const dx = x(value) - px, dy = isBar ? 0 : y(each.y[n]) - py;
      // In a curve, the round under the pointer counts, wherever the pointer is above it.
      const distance = Math.hypot(dx, each.mark === "line" ? dy / 3 : dy);
      if (best === null || distance < best.distance) best = { distance, each, n, value };
    });
  }
  if (best === null || best.distance > 60) return null;
  const { each, n, value } = best;
  const where = spec.categories ? spec.categories[value] : `${spec.x_title} ${meant(spec, value)}`;
  const lines = [each.texts?.[n] ?? each.name, where, `${spec.y_title} ${meant(spec, each.y[n])}`];
  if (each.low && each.low[n] !== null && each.low[n] !== each.high[n]) {
    lines.push(`from ${meant(spec, each.low[n])} to ${meant(spec, each.high[n])}`);
  }
  return { lines: lines.filter(Boolean), pick: each.ids?.[n] };
}
