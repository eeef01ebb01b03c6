// The chart under a node that optimises: few lines at first, each scaled to itself; a click on a name adds it.

import { colourOf, legend, nearest, polyline, short, shownNames, smoothed, visible } from "./curves.mjs";
import { word } from "./words.mjs";

const HEIGHT = 120;
const AXIS = 14; // px below the lines for the steps
const SMOOTHING = 3;
const MARGIN = 4;

/** Make the chart's element; `draw(curves, steps)` shows curves of a run of so many steps. */
export function lossPlot() {
  const element = document.createElement("div");
  element.dataset.oneshotLosses = "";
  element.style.cssText = "display:flex;flex-direction:column;gap:4px;width:100%;font:11px sans-serif;overflow:hidden";
  const canvas = document.createElement("canvas");
  canvas.style.cssText = `width:100%;height:${HEIGHT}px;background:#0003;border-radius:4px`;
  canvas.title = word("scale");
  const names = document.createElement("div");
  names.style.cssText = "display:flex;flex-wrap:wrap;gap:0 10px;max-height:56px;overflow:hidden";
  element.append(canvas, names);
  const choices = new Map(); // name -> shown, for names that were clicked
  let shown = { curves: {}, steps: 0 };
  let pointed; // step under the pointer
  let pending = 0;

  function lastStep() {
    return Math.max(1, shown.steps || 0, ...shownNames(shown.curves).map((name) => shown.curves[name].at(-1)[0]));
  }

  function paintLines(pen, width, last) {
    const drawn = visible(shownNames(shown.curves), choices);
    for (const name of drawn) {
      pen.strokeStyle = colourOf(name);
      pen.lineWidth = 1.2;
      pen.beginPath();
      const line = polyline(smoothed(shown.curves[name], SMOOTHING), last, width - 2 * MARGIN, HEIGHT - AXIS - 12);
      line.forEach(([x, y], at) => (at ? pen.lineTo(x + MARGIN, y + 6) : pen.moveTo(x + MARGIN, y + 6)));
      pen.stroke();
    }
    return drawn;
  }

  function paintAxis(pen, width, last) {
    pen.fillStyle = pen.strokeStyle = "#888";
    pen.font = "10px sans-serif";
    pen.fillRect(MARGIN, HEIGHT - AXIS, width - 2 * MARGIN, 0.5);
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      pen.textAlign = share === 0 ? "left" : share === 1 ? "right" : "center";
      pen.fillText(String(Math.round(share * last)), MARGIN + share * (width - 2 * MARGIN), HEIGHT - 3);
    }
  }

  function paintPointed(pen, width, last, drawn) {
    if (pointed === undefined || !drawn.length) return;
    pen.fillStyle = "#888";
    pen.fillRect(MARGIN + (pointed / last) * (width - 2 * MARGIN), 0, 0.7, HEIGHT - AXIS);
    const values = drawn.map((name) => `${name} ${short(nearest(shown.curves[name], pointed))}`);
    const text = `${pointed}: ${values.join("  ")}`;
    pen.font = "10px sans-serif";
    pen.textAlign = "left";
    pen.fillStyle = "#000c";
    pen.fillRect(MARGIN, 1, Math.min(width - 2 * MARGIN, pen.measureText(text).width + 8), 14);
    pen.fillStyle = "#ddd";
    pen.fillText(text, MARGIN + 4, 11, width - 2 * MARGIN - 8);
    canvas.dataset.pointed = text;
  }

  function label(name, value, drawn) {
    const found = document.createElement("span");
    found.style.cssText = `cursor:pointer;color:${colourOf(name)};opacity:${drawn.includes(name) ? 1 : 0.4}`;
    found.textContent = `${name} ${value}`;
    found.title = word("toggle");
    found.onclick = () => {
      choices.set(name, !drawn.includes(name));
      paint();
    };
    return found;
  }

  function paint() {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth || 240;
    canvas.width = width * ratio;
    canvas.height = HEIGHT * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const last = lastStep();
    const drawn = paintLines(pen, width, last);
    if (drawn.length) paintAxis(pen, width, last);
    paintPointed(pen, width, last, drawn);
    names.replaceChildren(...legend(shown.curves).map(([name, value]) => label(name, value, drawn)));
  }

  function later() {
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(paint);
  }

  canvas.onmousemove = (event) => {
    const width = canvas.clientWidth - 2 * MARGIN;
    // Of a zoomed canvas the page's pixels are not its own.
    const box = canvas.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width) * canvas.clientWidth - MARGIN;
    pointed = Math.round(Math.min(1, Math.max(0, share / width)) * lastStep());
    later();
  };
  canvas.onmouseleave = () => {
    pointed = undefined;
    later();
  };

  return {
    element,
    draw(curves, steps) {
      shown = { curves, steps };
      later();
    },
    stop: () => cancelAnimationFrame(pending),
  };
}
