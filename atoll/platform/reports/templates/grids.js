// Figures of many values: cells of a matrix, and a strip of points for each group.
"use strict";

/** A matrix: the larger the value, the stronger the colour. */
function drawCells(spec, width) {
  const columns = spec.columns.length, rows = spec.rows.length;
  const widest = Math.max(...spec.rows.map(widthOf), 10);
  const left = Math.min(widest, width * 0.34) + 10;
  const slot = (width - left - 32) / columns;
  const labels = categoryLabels(spec.columns, slot);
  const tall = Math.min(30, Math.max(6, spec.height ? spec.height / rows : Math.max(20, slot * 0.8)));
  const sizes = { left, below: labels.below };
  const { svg, box } = frame(spec, width, tall * rows, sizes, []);
  const across = box.width / columns;
  const [low, high] = spec.range ?? extent(spec.values.flat()) ?? [0, 1];
  const share = (value) => (high > low ? (value - low) / (high - low) : 1);
  spec.values.forEach((row, i) => row.forEach((value, j) => {
    if (value === null) return;
    const at = { x: box.left + across * j, y: box.top + tall * i, width: across, height: tall };
    const strength = Math.max(0, Math.min(1, share(value)));
    add(svg, "rect", { class: "cell", "fill-opacity": (0.04 + 0.96 * strength).toFixed(3), ...at });
    const text = spec.texts ? spec.texts[i][j] : null;
    const isSmall = text && widthOf(text) > across - 3;
    if (text && widthOf(text) * (isSmall ? 0.8 : 1) < across && tall >= 14) {
      const middle = { x: at.x + across / 2, y: at.y + tall / 2 + 4, "text-anchor": "middle" };
      const kind = `${strength > 0.55 ? "on" : "value"}${isSmall ? " small" : ""}`;
      add(svg, "text", { class: kind, ...middle }, text);
    }
  }));
  drawCategories(svg, box, spec.columns, labels, (j) => box.left + across * (j + 0.5));
  const every = Math.max(1, Math.ceil(14 / tall));
  spec.rows.forEach((name, i) => {
    if (i % every) return;
    const y = box.top + tall * (i + 0.5) + 4, text = fitted(name, left - 10);
    const at = { class: "tick", x: box.left - 6, y, "text-anchor": "end" };
    const label = add(svg, "text", at, text);
    if (text !== name) add(label, "title", {}, name);
  });
  const find = (px, py) => {
    const j = Math.floor((px - box.left) / across), i = Math.floor((py - box.top) / tall);
    if (spec.values[i]?.[j] === undefined) return null;
    const value = spec.texts?.[i][j] ?? shown(spec.values[i][j]);
    const lines = [`${spec.y_title} ${spec.rows[i]}`, `${spec.x_title} ${spec.columns[j]}`];
    return { lines: [...lines, `${spec.unit} ${value}`], pick: spec.ids?.[j] };
  };
  return { svg, box, find };
}

/** Points of each group in a row, with the quartiles as a box behind them. */
function drawStrips(spec, width) {
  const left = Math.min(Math.max(...spec.groups.map((g) => widthOf(g.name))), width * 0.4) + 10;
  const tall = 56;
  const sizes = { left, below: TICK };
  const { svg, box } = frame(spec, width, tall * spec.groups.length, sizes, []);
  const range = padded(extent(spec.groups.flatMap((g) => g.values)) ?? [0, 1], 0.05);
  const x = numbersBelow(svg, box, range, spec);
  const points = [];
  spec.groups.forEach((group, row) => {
    const middle = box.top + tall * (row + 0.5);
    const at = { class: "tick", x: box.left - 6, y: middle + 4, "text-anchor": "end" };
    add(svg, "text", at, fitted(group.name, left - 10));
    drawBox(svg, group.values, x, middle, colorOf(row));
    group.values.forEach((value, n) => {
      // Spread by their place, so that equal values do not hide each other.
      const y = middle + (((n * 0.618) % 1) - 0.5) * 30;
      const dot = { class: `fill faint ${colorOf(row)}`, cx: x(value), cy: y, r: 3.4 };
      add(svg, "circle", dot);
      points.push({ px: x(value), py: y, group, n });
    });
  });
  const base = box.top + box.height;
  add(svg, "line", { class: "axis", x1: box.left, x2: box.left + box.width, y1: base, y2: base });
  const find = (px, py) => {
    let best = null;
    for (const point of points) {
      const distance = Math.hypot(point.px - px, point.py - py);
      if (distance < 24 && (best === null || distance < best.distance)) best = { distance, point };
    }
    if (best === null) return null;
    const { group, n } = best.point;
    const lines = [group.labels[n], `${group.name} ${shown(group.values[n])}`];
    return { lines, pick: group.ids[n] };
  };
  return { svg, box, find };
}

function drawBox(svg, values, x, middle, color) {
  const sorted = [...values].sort((a, b) => a - b);
  const quantile = (share) => {
    const place = share * (sorted.length - 1), below = Math.floor(place);
    const above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
  };
  const [low, median, high] = [0.25, 0.5, 0.75].map(quantile);
  const wide = Math.max(1, x(high) - x(low));
  const at = { x: x(low), y: middle - 18, width: wide, height: 36, class: `box ${color}` };
  add(svg, "rect", at);
  const line = { x1: x(median), x2: x(median), y1: middle - 18, y2: middle + 18 };
  add(svg, "line", { class: `stroke ${color}`, "stroke-width": 2, ...line });
}
