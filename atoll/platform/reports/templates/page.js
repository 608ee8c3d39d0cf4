// The page: draws its figures, and redraws them at another width or with another choice.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("figures").textContent);
  const DRAWERS = { curves: drawCurves, cells: drawCells, strips: drawStrips };
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.appendChild(tip);

  const views = [...document.querySelectorAll("[data-figure]")].map((place) => {
    const spec = data.figures[Number(place.dataset.figure)];
    const state = { hidden: new Set(), full: false, view: null, chosen: null };
    const view = { place, spec, state, width: 0, drawn: null, buttons: {} };
    addButtons(view);
    const canvas = document.createElement("div");
    canvas.className = "canvas";
    place.appendChild(canvas);
    view.canvas = canvas;
    listen(view);
    return view;
  });

  function draw(view) {
    view.width = Math.max(240, Math.round(view.canvas.clientWidth));
    view.drawn = DRAWERS[view.spec.kind](view.spec, view.width, view.state);
    view.canvas.replaceChildren(view.drawn.svg);
    const { range } = view.buttons;
    if (range) {
      const isZoomed = view.state.view !== null;
      range.hidden = !isZoomed && !view.spec.range;
      range.textContent = isZoomed || !view.state.full ? "Whole range" : "Late rounds";
    }
  }

  function addButtons(view) {
    const bar = document.createElement("div");
    bar.className = "bar";
    const button = (text, title, act) => {
      const made = document.createElement("button");
      made.type = "button";
      made.textContent = text;
      made.title = title;
      made.addEventListener("click", act);
      bar.appendChild(made);
      return made;
    };
    if (view.spec.kind === "curves") {
      view.buttons.range = button("Whole range", "What the axes show", () => {
        view.state.full = view.state.view !== null || !view.state.full;
        view.state.view = null;
        draw(view);
      });
    }
    button("SVG", "Save this figure as SVG", () => save(view, "svg"));
    button("PNG", "Save this figure as PNG", () => save(view, "png"));
    view.place.parentElement.querySelector("header").appendChild(bar);
  }

  function listen(view) {
    const { canvas, state } = view;
    let from = null;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const scale = view.width / box.width;
      return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    };
    const found = (event) => view.drawn.find(...at(event));
    canvas.addEventListener("pointermove", (event) => {
      const under = from === null ? found(event) : null;
      if (from !== null) frameOf(view, from, at(event));
      show(under, event);
      canvas.style.cursor = under?.pick === undefined ? "" : "pointer";
    });
    canvas.addEventListener("pointerleave", () => show(null));
    canvas.addEventListener("pointerdown", (event) => {
      const isCurve = view.spec.kind === "curves" && !view.spec.categories;
      if (isCurve && event.pointerType === "mouse" && !event.target.closest(".entry")) {
        from = at(event);
      }
    });
    window.addEventListener("pointerup", (event) => {
      if (from === null) return;
      const [first, second] = [from, at(event)];
      from = null;
      if (Math.abs(first[0] - second[0]) < 12) draw(view);
      else zoom(view, first, second);
    });
    canvas.addEventListener("click", (event) => {
      const entry = event.target.closest(".entry");
      const series = Number(entry?.dataset.series ?? -1);
      if (series >= 0) {
        if (!state.hidden.delete(series)) state.hidden.add(series);
        draw(view);
        return;
      }
      const pick = found(event)?.pick;
      if (pick !== undefined) choose(pick, true);
    });
    canvas.addEventListener("dblclick", () => {
      state.view = null;
      draw(view);
    });
  }

  function frameOf(view, [x1, y1], [x2, y2]) {
    view.canvas.querySelector(".frame")?.remove();
    const at = { x: Math.min(x1, x2), y: Math.min(y1, y2) };
    const size = { width: Math.abs(x1 - x2), height: Math.abs(y1 - y2) };
    add(view.drawn.svg, "rect", { class: "frame", ...at, ...size });
  }

  function zoom(view, first, second) {
    const { box, x, y } = view.drawn;
    // The scales are linear, so two of their points give their inverses.
    const inverse = (scale, pixel) => (pixel - scale(0)) / (scale(1) - scale(0));
    const cut = (value, low, size) => Math.max(low, Math.min(low + size, value));
    const xs = [first[0], second[0]].map((p) => inverse(x, cut(p, box.left, box.width)));
    const ys = [first[1], second[1]].map((p) => inverse(y, cut(p, box.top, box.height)));
    const ends = (pair) => [Math.min(...pair), Math.max(...pair)];
    view.state.view = { x: ends(xs), y: ends(ys) };
    if (ys[0] === ys[1]) view.state.view = null;
    draw(view);
  }

  function show(under, event) {
    tip.hidden = under === null;
    if (under === null) return;
    tip.textContent = under.lines.join("\n");
    const box = tip.getBoundingClientRect();
    const x = Math.min(event.clientX + 14, window.innerWidth - box.width - 8);
    const y = event.clientY + 18 + box.height > window.innerHeight
      ? event.clientY - box.height - 10 : event.clientY + 18;
    tip.style.left = `${Math.max(4, x)}px`;
    tip.style.top = `${y}px`;
  }

  // One client at a click: its curves are drawn in every figure that has them.
  const chooser = document.getElementById("client");

  function choose(id, goes) {
    if (!chooser || !data.clients) return;
    const place = data.clients.ids.indexOf(id);
    if (place < 0) return;
    chooser.value = id;
    for (const view of views) {
      const curves = data.clients.curves[view.spec.member];
      if (!curves) continue;
      view.state.chosen = curves
        .filter((curve) => curve.of[place])
        .map((curve, n) => ({
          name: `${data.clients.names[place]}, ${curve.name}`, x: curve.of[place][0],
          y: curve.of[place][1], mark: "both", color: 1 + n + view.spec.series.length,
        }));
      draw(view);
    }
    if (goes) document.getElementById("clients")?.scrollIntoView({ block: "nearest" });
  }

  if (chooser && data.clients) {
    data.clients.ids.forEach((id, n) => chooser.add(new Option(data.clients.names[n], id)));
    chooser.addEventListener("change", () => choose(chooser.value, false));
  }

  const KEPT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "opacity"];
  const OF_TEXT = ["font-family", "font-size", "font-weight", "text-anchor"];

  /** A figure as the text of a file, in light colours, whatever the page is in. */
  function svgText(view) {
    const light = document.createElement("div");
    light.className = "light offscreen";
    const copy = view.drawn.svg.cloneNode(true);
    light.appendChild(copy);
    document.body.appendChild(light);
    const [, , width, height] = copy.getAttribute("viewBox").split(" ");
    for (const each of copy.querySelectorAll("*")) {
      const style = getComputedStyle(each);
      const names = each.tagName === "text" ? [...KEPT, ...OF_TEXT] : KEPT;
      each.setAttribute("style", names.map((n) => `${n}:${style.getPropertyValue(n)}`).join(";"));
    }
    light.remove();
    copy.setAttribute("xmlns", NAMESPACE);
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    const paper = add(copy, "rect", { width, height, fill: "#fff" });
    copy.prepend(paper);
    return new XMLSerializer().serializeToString(copy);
  }

  function download(url, name) {
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
  }

  /** The address of a figure's SVG, with all of it inside. */
  function svgUrl(view) {
    return `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgText(view))}`;
  }

  /** The same of a PNG of twice its size. */
  async function pngUrl(view) {
    const image = new Image();
    const loaded = new Promise((resolve) => { image.onload = resolve; });
    image.src = svgUrl(view);
    await loaded;
    const canvas = document.createElement("canvas");
    canvas.width = 2 * image.width;
    canvas.height = 2 * image.height;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/png");
  }

  async function save(view, kind) {
    const name = `${document.title} ${view.spec.title}`.replace(/[^\w.-]+/g, "-").slice(0, 100);
    download(kind === "svg" ? svgUrl(view) : await pngUrl(view), `${name}.${kind}`);
  }

  const sizes = new ResizeObserver((entries) => {
    for (const entry of entries) {
      const view = views.find((each) => each.canvas === entry.target);
      if (Math.round(entry.contentRect.width) !== view.width) draw(view);
    }
  });
  for (const view of views) {
    draw(view);
    sizes.observe(view.canvas);
  }
  // On paper nothing can be opened.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
  });
  window.atollFigures = {
    svg: (number) => svgText(views[number]),
    png: (number) => pngUrl(views[number]),
    choose,
  };
})();
