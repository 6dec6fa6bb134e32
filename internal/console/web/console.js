// The pages work without this script. It adds the choice of light or dark, updates, and keys for the map.
(() => {
  "use strict";
  const root = document.documentElement;
  const stored = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;

  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;

  function theme() {
    const button = document.getElementById("theme");
    const label = () => { button.textContent = isDark() ? "Light" : "Dark"; button.setAttribute("aria-label", isDark() ? "Light colors" : "Dark colors"); };
    button.hidden = false;
    label();
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch { /* for this page only */ }
      label();
    });
  }

  // The focus survives an update: its element is found again by its ID or its link.
  function mark() {
    const at = document.activeElement, main = document.getElementById("main");
    if (!at || at === main || !main.contains(at)) return () => {};
    const same = (e) => at.id ? e.id === at.id : e.getAttribute("href") === at.getAttribute("href") && e.getAttribute("aria-label") === at.getAttribute("aria-label");
    return () => {
      const again = [...main.querySelectorAll(at.localName)].find(same);
      if (again) again.focus({ preventScroll: true });
    };
  }

  async function refresh() {
    const status = document.getElementById("status");
    try {
      const answer = await fetch(location.href, { redirect: "error", cache: "no-store" });
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      const from = next.getElementById("main"), to = document.getElementById("main");
      if (!from) throw new Error("no page");
      if (from.innerHTML !== to.dataset.drawn) {
        const refocus = mark();
        to.dataset.drawn = from.innerHTML;
        to.replaceChildren(...from.childNodes);
        cells();
        refocus();
      }
      const time = next.querySelector("footer time"), old = document.querySelector("footer time");
      if (time && old) old.replaceWith(time);
      status.textContent = "";
    } catch {
      status.textContent = "No update: the console does not answer, or your session has ended. Load the page again.";
    }
  }

  function live() {
    const button = document.getElementById("live");
    if (!button) return;
    button.hidden = false;
    let source = null, timer = 0, first = document.body.dataset.generation;
    const stop = () => { clearTimeout(timer); timer = 0; if (source) source.close(); source = null; };
    const start = () => {
      source = new EventSource("/live");
      source.addEventListener("snapshot", (event) => {
        const drawn = event.data === first;
        first = "";
        // A random part spreads the requests of many open pages.
        if (!drawn && !timer) timer = setTimeout(() => { timer = 0; refresh(); }, 200 + Math.random() * 1800);
      });
    };
    const on = () => button.getAttribute("aria-pressed") === "true";
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(!on()));
      if (on()) { start(); refresh(); } else stop();
    });
    // A page in the background reads nothing.
    document.addEventListener("visibilitychange", () => {
      if (!on()) return;
      stop();
      if (!document.hidden) { start(); refresh(); }
    });
    addEventListener("pagehide", stop);
    start();
  }

  // The map is one stop of the tab key. The arrow keys move within it.
  function cells() {
    const first = document.querySelector(".c");
    if (first) first.tabIndex = 0;
  }

  function keys() {
    document.addEventListener("keydown", (event) => {
      const at = document.activeElement;
      if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && at.localName !== "input") {
        const search = document.getElementById("q");
        if (search) { event.preventDefault(); search.focus(); search.select(); }
        return;
      }
      if (!at.classList.contains("c")) return;
      const all = [...document.querySelectorAll(".c")], i = all.indexOf(at);
      const top = at.getBoundingClientRect().top, left = at.getBoundingClientRect().left;
      const column = (from, step) => {
        for (let j = from; j >= 0 && j < all.length; j += step) {
          const box = all[j].getBoundingClientRect();
          if (box.top !== top && Math.abs(box.left - left) < 2) return j;
        }
        return i;
      };
      const to = { ArrowRight: () => i + 1, ArrowLeft: () => i - 1, ArrowDown: () => column(i + 1, 1), ArrowUp: () => column(i - 1, -1), Home: () => 0, End: () => all.length - 1 }[event.key];
      const next = to && all[to()];
      if (!next) return;
      event.preventDefault();
      at.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }

  document.addEventListener("DOMContentLoaded", () => { theme(); live(); cells(); keys(); });
})();
