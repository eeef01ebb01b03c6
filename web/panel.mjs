// What a node of the pack shows below its inputs: a status line, and where they say something a chart of its losses,
// the steps to choose from, a slider over both looks.

import { compare } from "./compare.mjs";
import { gallery } from "./gallery.mjs";
import { lossPlot } from "./loss_plot.mjs";
import { lines } from "./status.mjs";

const EMPTY_PX = 2;

/**
 * Make a node's panel.
 *
 * `draw(entry, inside)` shows an entry of the server's board, and which of several subgraph nodes it is of;
 * `height()` is what it needs, in pixels.
 *
 * @param {{url: (picture: object) => string, choose: (step: number) => void, grown: () => void}} page
 */
export function panel(page) {
  const element = document.createElement("div");
  element.dataset.oneshotPanel = "";
  element.style.cssText = "width:100%;overflow:hidden;font:11px sans-serif";
  const inner = document.createElement("div");
  inner.style.cssText = "display:flex;flex-direction:column;gap:6px";
  const told = document.createElement("div");
  told.dataset.oneshotStatus = "";
  told.style.cssText = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.35;user-select:text";
  inner.append(told);
  element.append(inner);
  let first;
  let plot;
  let steps;
  let slider;
  let tall = EMPTY_PX;

  const watcher = new ResizeObserver(() => {
    // The widget's box may be hidden: then it has no height, and keeps the one it had.
    if (inner.offsetHeight && Math.abs(inner.offsetHeight - tall) > 1) {
      tall = inner.offsetHeight;
      page.grown();
    }
  });
  watcher.observe(inner);

  function part(made) {
    inner.append(made.element);
    return made;
  }

  function status(entry, inside) {
    const { shown, whole, wrong } = lines(entry);
    if (inside && shown.length) for (const all of new Set([shown, whole])) all.unshift(`${inside}:`);
    told.textContent = shown.join("\n") + (shown.length < whole.length ? "\n…" : "");
    told.title = whole.join("\n");
    told.style.color = wrong ? "#ff6b6b" : "inherit";
    told.style.display = shown.length ? "" : "none";
  }

  return {
    element,
    height: () => tall,
    draw(entry, inside) {
      status(entry, inside);
      if (!plot && Object.keys(entry.points ?? {}).length) plot = part(lossPlot());
      plot?.draw(entry.points ?? {}, entry.steps ?? 0);
      if (!steps && entry.snapshots?.length) steps = part(gallery(page.choose));
      steps?.show((entry.snapshots ?? []).map((one) => ({ ...one, src: page.url(one) })));
      if (!slider && entry.pairs?.length) slider = part(compare());
      const pairs = (entry.pairs ?? []).map(({ before, after }) => ({ before: page.url(before), after: page.url(after) }));
      slider?.show(pairs, entry.names ?? []);
    },
    /** Show a picture before the node runs. */
    picture(src) {
      if (!first) {
        first = document.createElement("img");
        first.alt = "";
        first.style.cssText = "display:block;width:100%;max-width:240px;aspect-ratio:1;margin:auto;border-radius:4px";
        inner.prepend(first);
      }
      first.src = src;
    },
    /** Put an element before all others. */
    lead: (made) => inner.prepend(made),
    mark: (step) => steps?.mark(step),
    stop() {
      watcher.disconnect();
      plot?.stop();
    },
  };
}
