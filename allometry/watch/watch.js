// The live page: takes the parts that the server sends and puts each in its place.
(() => {
  "use strict";
  const { chart, draw, redraw, equip, sortable } = window.allometry;
  const state = document.getElementById("state");
  const studies = document.getElementById("studies");
  const shown = new Map(); // name of a figure -> its chart, and what is still to be drawn

  // ---- text and tables ----------------------------------------------------------------------------------------

  // Every text in `html` was escaped where it was made, and the page's policy runs no script that it could hold.
  function put(holder, html) {
    const open = new Set([...holder.querySelectorAll("details[open]")].map((each) => each.dataset.key));
    if (holder === studies && holder === document.activeElement) return; // a list that is being chosen from
    holder.innerHTML = html;
    holder.hidden = false;
    for (const each of holder.querySelectorAll("details")) each.open = open.has(each.dataset.key);
    holder.querySelectorAll("table.sortable").forEach(sortable);
  }

  // ---- figures ------------------------------------------------------------------------------------------------

  const busy = (figure) => document.hidden || figure.matches(":hover"); // someone reads it, or nobody does

  function take(message) {
    const figure = document.querySelector(`[data-figure="${message.name}"]`);
    document.querySelector(`[data-part="${message.name}"]`)?.setAttribute("hidden", "");
    figure.hidden = false;
    figure.querySelector("h3").textContent = message.title;
    figure.querySelector("figcaption").textContent = message.caption;
    const entry = shown.get(message.name) || { figure, chart: null, next: null, drawing: false };
    shown.set(message.name, entry);
    entry.next = message.chart;
    proceed(entry);
  }

  async function proceed(entry) {
    if (entry.drawing || entry.next === null || (entry.chart && busy(entry.figure))) return;
    const spec = JSON.parse(entry.next);
    entry.next = null;
    entry.drawing = true;
    if (entry.chart) await redraw(entry.chart, spec);
    else {
      entry.chart = chart(entry.figure.querySelector(".chart"), entry.figure.dataset.figure, spec);
      equip(entry.chart);
      await draw(entry.chart);
    }
    entry.drawing = false;
    proceed(entry);
  }

  const proceedAll = () => shown.forEach(proceed);
  document.addEventListener("visibilitychange", proceedAll);
  document.querySelectorAll("figure").forEach((figure) => figure.addEventListener("mouseleave", proceedAll));

  // ---- the connection -----------------------------------------------------------------------------------------

  function tell(kind, words) {
    state.className = kind;
    state.lastElementChild.textContent = words;
  }

  const source = new EventSource("events" + location.search);
  source.addEventListener("part", (event) => {
    const message = JSON.parse(event.data);
    if (message.title && message.html) document.title = message.title;
    if (message.chart) return take(message);
    const holder = document.querySelector(`[data-part="${message.name}"]`);
    if (holder) put(holder, message.html);
  });
  source.addEventListener("trouble", (event) => tell("lost", JSON.parse(event.data)));
  source.addEventListener("settled", () => { tell("live", "live"); document.documentElement.dataset.settled = "yes"; });
  source.addEventListener("error", () => tell("lost", "connection lost"));

  studies.addEventListener("change", () => { location.search = "?study=" + encodeURIComponent(studies.value); });
})();
