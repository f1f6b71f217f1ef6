// The report's own script: its charts and tables, the button that copies, and the table of contents.
(() => {
  "use strict";
  const { root, charts, lazily, drawTheRest, csvButton, sortable } = window.allometry;

  for (const box of document.querySelectorAll(".chart")) {
    lazily(box, box.dataset.name, () => JSON.parse(box.parentElement.querySelector("script.spec").textContent));
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

  const wide = matchMedia("(min-width: 72rem)");
  const contents = document.querySelector(".contents details");
  contents.open = wide.matches;
  wide.addEventListener("change", () => { contents.open = wide.matches; });

  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const parts = [...document.querySelectorAll("main section")].filter((part) => links.has(part.id));
  contents.addEventListener("click", (event) => { if (event.target.closest("a") && !wide.matches) contents.open = false; });

  // The entry that is being read is the last one that begins in the upper part of the screen.
  function follow() {
    const line = innerHeight * 0.3;
    const here = parts.findLast((part) => part.getBoundingClientRect().top < line) || parts[0];
    for (const [id, link] of links) {
      if (id !== here?.id) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        if (wide.matches) link.scrollIntoView({ block: "nearest" });
      }
    }
  }
  let following = null;
  addEventListener("scroll", () => { following ??= setTimeout(() => { following = null; follow(); }, 80); }, { passive: true });
  follow();

  drawTheRest(() => { root.dataset.drawn = String(charts.filter((chart) => chart.result).length); });
})();
