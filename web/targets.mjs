// Target pictures before anything runs: the demo's own, and the one that a node is to frame.

import { framePicker } from "./frame.mjs";

const LOOK_AGAIN_MS = 700; // after an upload or another choice on the node before

/** Call something after a widget's value changed, and after a workflow gave it its value. */
function follow(node, names, changed) {
  for (const widget of node.widgets?.filter((one) => names.includes(one.name)) ?? []) {
    const before = widget.callback;
    widget.callback = function (...args) {
      const answer = before?.apply(this, args);
      changed();
      return answer;
    };
  }
  const configured = node.onConfigure;
  node.onConfigure = function (...args) {
    const answer = configured?.apply(this, args);
    changed();
    return answer;
  };
}

const value = (node, name) => node.widgets?.find((one) => one.name === name)?.value;

/** Let the demo's target show its picture; `picture(src)` draws it. */
export function showTarget(node, api, picture) {
  const show = () => picture(demoTarget(api, value(node, "look")));
  follow(node, ["look"], show);
  show();
}

function demoTarget(api, look) {
  return api.apiURL(`/oneshot/demo_target?${new URLSearchParams({ look })}`);
}

/** Address of the picture that comes in on a node's input; undefined where the page cannot know it. */
export function incoming(node, name, api, app) {
  const link = node.inputs?.find((one) => one.name === name)?.link;
  const origin = link == null ? undefined : node.getInputNode?.(node.inputs.findIndex((one) => one.name === name));
  if (!origin) return undefined;
  if (origin.comfyClass === "OneShotDemoTarget") return demoTarget(api, value(origin, "look"));
  const file = value(origin, "image");
  if (origin.comfyClass === "LoadImage" && typeof file === "string" && file) return view(api, inputFile(file));
  const shown = app.nodeOutputs?.[origin.id]?.images?.[0];
  return shown && view(api, shown);
}

/** Address of a picture that the server keeps. */
export function view(api, { filename, subfolder = "", type }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

/** What Load Image names: a file of the input folder, or of another folder in brackets after it. */
function inputFile(text) {
  const [, name, type = "input"] = text.match(/^(.*?)(?: \[(input|output|temp)\])?$/);
  const parts = name.split("/");
  return { filename: parts.pop(), subfolder: parts.join("/"), type };
}

/**
 * Let a node show the picture that comes in, with the square that it takes; returns its element.
 *
 * @param {() => {src?: string, frame?: object}} known - address of the picture that its last run got, and its frame.
 * @param {() => boolean} isThere - whether the node still is.
 */
export function showFrame(node, api, app, known, isThere) {
  const names = ["zoom", "offset_x", "offset_y"];
  const picker = framePicker((frame) => {
    for (const name of names) {
      const widget = node.widgets?.find((one) => one.name === name);
      if (!widget || widget.value === frame[name]) continue;
      widget.value = frame[name];
      widget.callback?.(frame[name]);
    }
    node.setDirtyCanvas?.(true, true);
  });
  const show = () => {
    if (!isThere()) return clearInterval(timer);
    const { src, frame } = known();
    // What is linked only the run knows.
    const linked = (name) => node.inputs?.some((one) => one.widget?.name === name && one.link != null);
    const number = (name) => (linked(name) ? (frame?.[name] ?? value(node, name)) : value(node, name));
    const now = Object.fromEntries(["fit", ...names].map((name) => [name, number(name)]));
    return picker.show(incoming(node, "image", api, app) ?? src, now);
  };
  const timer = setInterval(show, LOOK_AGAIN_MS); // ends by itself when the node is gone
  follow(node, ["fit", ...names], show);
  show();
  return picker.element;
}
