// The chart under a node that optimises: one line per loss, each scaled to itself.

import { legend, polyline, shownNames, smoothed } from "./curves.mjs";

const COLOURS = ["#5fb3f6", "#f6a35f", "#7bd67b", "#e57bd0", "#e5d25a", "#b79bf5", "#f57b7b", "#6fd6cf"];
const HEIGHT = 120;
const SMOOTHING = 3;

/** Make the chart's element; `draw(curves, steps)` shows curves of a run of so many steps. */
export function lossPlot() {
  const element = document.createElement("div");
  element.dataset.oneshotLosses = "";
  element.style.cssText = "display:flex;flex-direction:column;gap:4px;width:100%;font:11px sans-serif;overflow:hidden";
  const canvas = document.createElement("canvas");
  canvas.style.cssText = `width:100%;height:${HEIGHT}px;background:#0003;border-radius:4px`;
  const names = document.createElement("div");
  names.style.cssText = "display:flex;flex-wrap:wrap;gap:0 10px;max-height:56px;overflow:hidden";
  element.append(canvas, names);
  let pending = 0;

  function paint(curves, steps) {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth || 240;
    canvas.width = width * ratio;
    canvas.height = HEIGHT * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const shown = shownNames(curves);
    const last = Math.max(steps || 0, ...shown.map((name) => curves[name].at(-1)[0]));
    shown.forEach((name, index) => {
      pen.strokeStyle = COLOURS[index % COLOURS.length];
      pen.lineWidth = 1.2;
      pen.beginPath();
      const line = polyline(smoothed(curves[name], SMOOTHING), last, width - 8, HEIGHT - 12);
      line.forEach(([x, y], at) => (at ? pen.lineTo(x + 4, y + 6) : pen.moveTo(x + 4, y + 6)));
      pen.stroke();
    });
    names.replaceChildren(
      ...legend(curves).map(([name, value], index) => {
        const label = document.createElement("span");
        label.style.color = COLOURS[index % COLOURS.length];
        label.textContent = `${name} ${value}`;
        return label;
      }),
    );
  }

  return {
    element,
    height: HEIGHT + 64,
    draw(curves, steps) {
      cancelAnimationFrame(pending);
      pending = requestAnimationFrame(() => paint(curves, steps));
    },
    stop: () => cancelAnimationFrame(pending),
  };
}
