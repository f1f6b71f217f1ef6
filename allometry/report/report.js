// The report's own script: its charts and tables, the button that copies, and the table of contents.
(() => {
  "use strict";
  const { root, charts, chart, drawAll, equip, csvButton, sortable } = window.allometry;

  for (const box of document.querySelectorAll(".chart")) {
    equip(chart(box, box.dataset.name, JSON.parse(box.parentElement.querySelector("script.spec").textContent)));
  }
  for (const holder of document.querySelectorAll(".table")) {
    const tools = holder.querySelector(".tools");
    if (!tools) continue;
    tools.append(...csvButton(holder));
    tools.hidden = false;
  }
  document.querySelectorAll("table.sortable").forEach(sortable);

  // ---- copy, contents -----------------------------------------------------------------------------------------

  document.getElementById("copy").addEventListener("click", async (event) => {
    const code = document.getElementById("command");
    try {
      await navigator.clipboard.writeText(code.textContent);
      event.target.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // no clipboard here: leave it selected
      event.target.textContent = "Selected";
    }
    setTimeout(() => { event.target.textContent = "Copy"; }, 2000);
  });

  const contents = document.querySelector(".contents details");
  if (!matchMedia("(min-width: 72rem)").matches) contents.open = false;
  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  document.querySelectorAll("main section").forEach((section) => watcher.observe(section));

  drawAll().then(() => { root.dataset.drawn = String(charts.filter((chart) => chart.result).length); });
})();
