// What the report and the live page share: charts drawn in the mode and width of the page, their buttons, tables that sort.
(() => {
  "use strict";
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const NARROW = 560; // below this width in pixels, legends go above the plot
  let chosen = null; // "light" or "dark" once the reader has chosen
  let printing = false;

  const mode = () => (printing ? "light" : chosen || (prefersDark.matches ? "dark" : "light"));

  // ---- charts -------------------------------------------------------------------------------------------------

  const charts = []; // all charts of the page

  function chart(box, name, spec) {
    const made = { box, name, spec, linear: { x: false, y: false }, result: null, narrow: null };
    charts.push(made);
    return made;
  }

  // A chart that is drawn when it comes near the screen; `load` gives its specification then. Those left are
  // drawn when there is nothing else to do, so that a printed page has them all.
  const waiting = new Map(); // box -> what to do with it
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) wake(entry.target);
  }, { rootMargin: "600px 0px" });

  function lazily(box, name, load) {
    waiting.set(box, async () => {
      const made = chart(box, name, load());
      equip(made);
      await draw(made);
    });
    near.observe(box);
  }

  function wake(box) {
    const act = waiting.get(box);
    waiting.delete(box);
    near.unobserve(box);
    return act ? act() : undefined;
  }

  const idle = window.requestIdleCallback || ((act) => setTimeout(act, 200));

  function drawTheRest(whenDone) {
    const [box] = waiting.keys();
    if (!box) return whenDone();
    idle(async () => { await wake(box); drawTheRest(whenDone); });
  }

  function configuration(width) {
    const config = structuredClone(themes[mode()]);
    config.background = "transparent";
    if (width < NARROW) {
      config.legend = { ...config.legend, orient: "top", direction: "horizontal", columns: Math.max(2, Math.floor((width - 60) / 72)), labelLimit: width - 60 };
      config.axis = { ...config.axis, titleFontSize: 12, labelFontSize: 11 };
    }
    return config;
  }

  function visit(node, act) {
    if (Array.isArray(node)) node.forEach((child) => visit(child, act));
    else if (node && typeof node === "object") {
      if (node.encoding) act(node.encoding);
      for (const key of ["layer", "vconcat", "hconcat"]) if (node[key]) visit(node[key], act);
    }
  }

  function logarithmic(spec, channel) {
    let found = false;
    visit(spec, (encoding) => { if (encoding[channel]?.scale?.type === "log") found = true; });
    return found;
  }

  // A logarithmic axis labels some of its ticks, "(condition) ? label : ''"; a linear one labels all.
  function linearize(spec, channel) {
    visit(spec, (encoding) => {
      const position = encoding[channel];
      if (position?.scale?.type !== "log") return;
      position.scale = { ...position.scale, type: "linear", zero: false };
      if (!position.axis) return;
      const label = /^\(.*\) \? (.*) : ''$/s.exec(position.axis.labelExpr || "");
      position.axis = { ...position.axis, gridOpacity: 0.6, tickCount: 6, ...(label ? { labelExpr: label[1] } : {}) };
    });
  }

  function prepared(chart) {
    const spec = structuredClone(chart.spec);
    for (const channel of ["x", "y"]) if (chart.linear[channel]) linearize(spec, channel);
    return spec;
  }

  async function draw(chart) {
    const width = chart.box.clientWidth;
    chart.narrow = width < NARROW;
    const turn = (chart.turn = (chart.turn || 0) + 1);
    try {
      const result = await vegaEmbed(chart.box, prepared(chart), {
        mode: "vega-lite", renderer: "svg", actions: false, ast: true, config: configuration(width),
        tooltip: { disableDefaultStyle: false, theme: "custom" },
      });
      if (turn !== chart.turn) return result.finalize();
      chart.result?.finalize();
      chart.result = result;
      await fill(chart);
    } catch (error) {
      chart.box.textContent = "";
      const message = document.createElement("p");
      message.className = "failed";
      message.textContent = "This chart could not be drawn: " + error.message;
      chart.box.append(message);
      console.error(chart.name, error);
    }
  }

  // Plots above each other have a width in pixels: stretch them to the box, less what axes and legends take.
  async function fill(chart) {
    const { view, vgSpec } = chart.result;
    if (!chart.spec.vconcat) return;
    const own = (vgSpec.signals || []).map((signal) => signal.name).filter((name) => /^(childWidth|concat_\d+_width)$/.test(name));
    const signals = own.length ? own : ["width"]; // plots of one width share one signal
    const drawn = chart.box.querySelector("svg")?.getBoundingClientRect().width || 0;
    const rest = drawn - view.signal(signals[0]);
    const target = Math.max(120, Math.floor(chart.box.clientWidth - rest - 2));
    signals.forEach((name) => view.signal(name, target));
    await view.runAsync();
  }

  const drawAll = () => Promise.all(charts.map(draw));

  // A new specification is drawn out of sight and takes the place of the old one when it is complete.
  async function redraw(chart, spec) {
    const old = chart.box;
    chart.spec = spec;
    chart.box = document.createElement("div");
    chart.box.className = "chart behind";
    chart.box.dataset.name = chart.name;
    old.after(chart.box);
    const fresh = chart.box;
    await draw(chart);
    old.remove();
    fresh.classList.remove("behind");
  }

  function forget(chart) {
    charts.splice(charts.indexOf(chart), 1);
    chart.result?.finalize();
  }

  let pending = null;
  let lastWidth = root.clientWidth;
  addEventListener("resize", () => {
    if (root.clientWidth === lastWidth) return; // a phone's address bar changes the height only
    lastWidth = root.clientWidth;
    clearTimeout(pending);
    pending = setTimeout(() => charts.forEach((chart) => (chart.box.clientWidth < NARROW) === chart.narrow && chart.result ? fill(chart) : draw(chart)), 150);
  });

  // ---- light and dark -----------------------------------------------------------------------------------------

  function applyMode() {
    root.style.colorScheme = chosen && !printing ? "only " + chosen : "";
    document.getElementById("theme-name").textContent = mode() === "dark" ? "Light" : "Dark";
  }

  function remember(value) { try { localStorage.setItem("allometry-theme", value); } catch { /* a file may have no storage */ } }
  function remembered() { try { return localStorage.getItem("allometry-theme"); } catch { return null; } }

  const fromAddress = /^#(light|dark)$/.exec(location.hash);
  chosen = fromAddress ? fromAddress[1] : remembered();
  if (chosen !== "light" && chosen !== "dark") chosen = null;
  document.getElementById("theme").addEventListener("click", () => {
    chosen = mode() === "dark" ? "light" : "dark";
    remember(chosen);
    applyMode();
    drawAll();
  });
  prefersDark.addEventListener("change", () => { if (!chosen) { applyMode(); drawAll(); } });
  addEventListener("beforeprint", () => { for (const box of [...waiting.keys()]) wake(box); });
  addEventListener("beforeprint", () => { if (mode() === "dark") { printing = true; applyMode(); drawAll(); } });
  addEventListener("afterprint", () => { if (printing) { printing = false; applyMode(); drawAll(); } });

  // ---- buttons ------------------------------------------------------------------------------------------------

  function button(text, title, action) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.title = title;
    made.addEventListener("click", () => action(made));
    return made;
  }

  function download(name, url) {
    const link = document.createElement("a");
    link.download = name;
    link.href = url;
    document.body.append(link);
    link.click();
    link.remove();
    if (url.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  function csvButton(holder) {
    const data = holder.querySelector("script.csv");
    if (!data) return [];
    return [button("CSV", "Download the numbers", () => {
      const text = JSON.parse(data.textContent);
      download(data.dataset.name + ".csv", URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" })));
    })];
  }

  async function picture(chart, format) {
    const view = chart.result.view;
    const before = view.background();
    view.background(themes[mode()].background);
    download(chart.name + "." + format, await view.toImageURL(format, 2));
    view.background(before);
  }

  // The buttons under a chart: linear axes, reset, pictures, and the numbers where the page has them.
  function equip(chart) {
    const holder = chart.box.parentElement;
    const tools = holder.querySelector(".tools");
    for (const channel of ["x", "y"]) {
      if (!logarithmic(chart.spec, channel)) continue;
      const toggle = button("log " + channel, "Logarithmic or linear " + channel + " axis", (self) => {
        chart.linear[channel] = !chart.linear[channel];
        self.setAttribute("aria-pressed", String(!chart.linear[channel]));
        draw(chart);
      });
      toggle.setAttribute("aria-pressed", "true");
      tools.append(toggle);
    }
    tools.append(
      button("Reset", "Undo zoom and selection. Zoom: Ctrl and the wheel, or pinch. Move: drag.", () => draw(chart)),
      button("SVG", "Download the chart as SVG", () => picture(chart, "svg")),
      button("PNG", "Download the chart as PNG", () => picture(chart, "png")),
      ...csvButton(holder),
    );
    tools.hidden = false;
  }

  // ---- tables that sort ---------------------------------------------------------------------------------------

  function sortBy(table, column, header) {
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column];
      if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
      return cell.classList.contains("n") && cell.textContent !== "" && !isNaN(cell.textContent) ? Number(cell.textContent) : cell.textContent;
    };
    const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : typeof a === typeof b ? a.localeCompare(b) : typeof a === "number" ? -1 : 1);
    const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => (descending ? order(b, a) : order(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }

  function sortable(table) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      header.tabIndex = 0;
      header.addEventListener("click", () => sortBy(table, column, header));
      header.addEventListener("keydown", (event) => { if (event.key === "Enter") sortBy(table, column, header); });
    });
  }

  applyMode();
  window.allometry = { root, charts, chart, lazily, drawTheRest, draw, drawAll, redraw, forget, equip, csvButton, sortable };
})();
