// One-Shot StyleGAN in the browser: what each node does and said, curves, steps to choose from, both looks;
// "stop and keep", "go on", folded inputs; a warning when another pack took an id. Nodes work without any of it.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { fold } from "./fold.mjs";
import { panel } from "./panel.mjs";
import { isKnown, KEPT, merged, nodeAt, ofOutput, path } from "./status.mjs";
import { showFrame, showTarget, view } from "./targets.mjs";
import { speak, word } from "./words.mjs";

const OWN = new Set([
  "CLIPLatentSearch", "LoadStyleGAN", "OneShotAdapt", "OneShotAlignFace", "OneShotApplyDirection",
  "OneShotApplyLook", "OneShotBlendGenerators", "OneShotCompare", "OneShotComponentDirection", "OneShotDemoTarget",
  "OneShotEditGrid", "OneShotEvaluate", "OneShotFrameTarget", "OneShotInterpolateLatents", "OneShotInvertImage",
  "OneShotLatentDirection", "OneShotLoadDirection", "OneShotLoadEncoders", "OneShotLoadLatent", "OneShotLoadLook",
  "OneShotMethod", "OneShotPasteBack", "OneShotRandomLatents", "OneShotSaveDirection", "OneShotSaveGenerator",
  "OneShotSaveLatent", "OneShotSaveLook", "OneShotStyleMix", "OneShotTextDirection", "OneShotTrainMapper",
  "SampleAdapted", "StyleCLIPEdit",
]);
const TITLE = "One-Shot StyleGAN";
const REVOKED_MS = 1000; // after which the page has forgotten a live picture
const MARGIN = 10; // px around a widget's element
const panels = new Map(); // node -> {panel, entries: Map(execution id -> entry), shown: execution id}
const remembered = new Map(); // "workflow execution id" -> entry, for the nodes that an undo makes anew
const MOST = 400;
let opened; // id of the subgraph node whose inside is on the canvas

const root = () => app.rootGraph ?? app.graph;
const isVue = () => Boolean(globalThis.LiteGraph?.vueNodesMode);
const entryOf = (node) => panels.get(node)?.entries.get(panels.get(node).shown);

function toast(severity, detail) {
  app.extensionManager?.toast?.add({ severity, summary: TITLE, detail, life: severity === "warn" ? 20000 : 6000 });
}

// Panels ------------------------------------------------------------------------------------------------

function grow(node) {
  const least = node.computeSize()[1];
  if (!isVue() && node.size[1] < least) node.setSize([node.size[0], least]);
  node.setDirtyCanvas?.(true, true);
}

function addPanel(node) {
  const made = panel({ url: (picture) => view(api, picture), choose: (step) => choose(node, step), grown: () => grow(node) });
  panels.set(node, { panel: made, entries: new Map(), shown: undefined });
  const room = () => made.height() + 2 * MARGIN;
  const widget = node.addDOMWidget("oneshot_panel", "oneshot_panel", made.element, {
    serialize: false,
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: room,
    getMaxHeight: room,
  });
  widget.serialize = false;
  const removed = node.onRemoved;
  node.onRemoved = function (...args) {
    drop(node);
    return removed?.apply(this, args);
  };
  return made;
}

function drop(node) {
  panels.get(node)?.panel.stop();
  panels.delete(node);
}

// Of a graph that is replaced only the outermost nodes are told; those in its subgraphs would stay for good.
function dropUnreachable() {
  const there = new Set();
  const visit = (graph) => {
    for (const node of graph?.nodes ?? []) {
      if (there.has(node)) continue;
      there.add(node);
      visit(node.subgraph);
    }
  };
  visit(root());
  for (const node of [...panels.keys()]) if (node.graph && !there.has(node)) drop(node);
}

// ComfyUI draws a node's last live picture before or beside the pictures of its result. It has no public call to
// end that, so its store is asked; where there is none, both are shown.
function endLivePicture(told) {
  // The subgraphs around it show its live picture, too.
  for (const parts = path(told.node); parts.length; parts.pop()) {
    outputs()?.revokePreviewsByExecutionId?.(parts.join(":"));
  }
  // It ends a moment later. Then classic nodes look for the pictures of the result only where they know of none, Vue
  // nodes only where they are told of them anew.
  setTimeout(() => {
    const node = nodeAt(root(), told.node);
    const entry = told.workflow === root()?.id ? entryOf(node) : undefined;
    if (!entry || entry.state === "running") return;
    node.images = node.preview = undefined;
    if (entry.images?.length) outputs()?.setNodeOutputsByExecutionId?.(told.node, { images: entry.images });
    node.setDirtyCanvas?.(true, true);
  }, REVOKED_MS);
}

function outputs() {
  const page = document.getElementById("vue-app")?.__vue_app__?.config?.globalProperties;
  return page?.$pinia?._s?.get?.("nodeOutput");
}

// Several subgraph nodes may share what is inside: the one that was opened counts, else who told last.
function draw(node, latest) {
  const known = panels.get(node);
  const ids = [...known.entries.keys()];
  known.shown = ids.find((id) => path(id).at(-2) === opened) ?? latest ?? known.shown;
  const outer = path(known.shown ?? "").slice(0, -1).join(":");
  const inside = ids.length > 1 && outer ? nodeAt(root(), outer)?.title : undefined;
  known.panel.draw(known.entries.get(known.shown) ?? { points: {} }, inside);
}

// Of another workflow's node with the same id nothing is taken; tells whether it was.
function take(told) {
  if (!told?.workflow || told.workflow !== root()?.id) return false;
  const node = nodeAt(root(), told.node);
  const known = panels.get(node);
  if (!known || node.comfyClass !== told.node_type) return false;
  const key = `${told.workflow} ${told.node}`;
  const entry = merged(known.entries.get(told.node) ?? remembered.get(key), told);
  known.entries.set(told.node, entry);
  remembered.delete(key); // the latest are last
  remembered.set(key, entry);
  if (remembered.size > MOST) remembered.delete(remembered.keys().next().value);
  draw(node, told.node);
  return true;
}

function onTold({ detail }) {
  if (take(detail) && detail.state !== "running") endLivePicture(detail);
}

// What a node of a cached run showed: newer versions of ComfyUI send it again.
function onExecuted({ detail }) {
  const node = nodeAt(root(), detail?.display_node ?? detail?.node);
  const entry = entryOf(node);
  if (!panels.has(node) || entry?.prompt_id === detail.prompt_id || isKnown(entry, detail.output)) return;
  take(ofOutput({ workflow: root().id, node: detail.node, node_type: node.comfyClass, prompt_id: detail.prompt_id }, detail.output));
}

// Other nodes whose inputs are those of an earlier run say so, where nothing is known of it.
function onCached({ detail }) {
  const ids = detail?.nodes ?? [];
  if (!ids.every((id) => nodeAt(root(), id))) return; // of another tab's graph
  for (const id of ids) {
    const node = nodeAt(root(), id);
    if (!panels.has(node) || panels.get(node).entries.has(String(id))) continue;
    const told = { workflow: root().id, node: String(id), node_type: node.comfyClass, prompt_id: detail.prompt_id };
    take({ ...told, state: "done", status: [word("cached")] });
  }
}

function takeAgain(told) {
  if (take(told) && told.images?.length) outputs()?.setNodeOutputsByExecutionId?.(told.node, { images: told.images });
}

// The page forgets what nodes told it on every undo, change of tab and reload; the server does not. What this page
// was told itself is as new, or newer: a cached output is of an earlier run than the server's last one.
async function restore({ missed = false } = {}) {
  dropUnreachable();
  const workflow = root()?.id;
  if (!workflow || !panels.size) return;
  for (const [key, entry] of [...remembered]) if (key.startsWith(`${workflow} `)) takeAgain(entry);
  const answer = await api.fetchApi(`/oneshot/status?workflow=${encodeURIComponent(workflow)}`);
  if (!answer.ok) return;
  const { nodes } = await answer.json();
  if (root()?.id !== workflow) return; // another tab by now
  const told = new Set(nodes.map((one) => one.node));
  for (const [node, known] of panels) {
    // A server that was started anew knows nothing of a run that ended with it.
    for (const [id, entry] of known.entries) {
      if (entry.state !== "running" || told.has(id)) continue;
      known.entries.delete(id);
      remembered.delete(`${workflow} ${id}`);
    }
    draw(node);
  }
  for (const one of nodes) {
    if (missed || !remembered.has(`${workflow} ${one.node}`)) takeAgain(one);
  }
}

function onOpened({ detail }) {
  opened = detail?.fromNode == null ? undefined : String(detail.fromNode.id);
  for (const node of panels.keys()) draw(node);
}

function softly(work) {
  return async (...args) => {
    try {
      await work(...args);
    } catch (error) {
      console.warn(`${TITLE}:`, error);
    }
  };
}

// A graph that was cleared has zeros for an id, and would share it with every other one.
function nameGraph() {
  const graph = root();
  if (!graph || /[^0-]/.test(graph.id ?? "0")) return;
  const digits = [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
  graph.id = digits.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, "$1-$2-4$3-a$4-$5");
}

// The whole picture that a node framed in its last run, and how.
function given(node) {
  const entry = entryOf(node);
  const [picture] = entry?.given ?? [];
  return { src: picture && view(api, picture), frame: entry?.frame?.[0] };
}

// Chooses the generator that the node gives; the last step is what 0 stands for.
function choose(node, step) {
  const widget = node.widgets?.find((one) => one.name === "snapshot_step");
  const known = panels.get(node);
  if (!widget || !known) return;
  const steps = entryOf(node)?.snapshots ?? [];
  widget.value = step === steps.at(-1)?.step ? 0 : step;
  widget.callback?.(widget.value);
  known.panel.mark(step);
  node.setDirtyCanvas?.(true, true);
}

// Buttons -----------------------------------------------------------------------------------------------

async function stopAndKeep(node) {
  try {
    const answer = await api.fetchApi("/oneshot/stop_and_keep", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ node: panels.get(node)?.shown ?? String(node.id), workflow: root()?.id }),
    });
    if (answer.ok) toast("info", word("stopping"));
    else toast("warn", (await answer.json()).error);
  } catch (error) {
    toast("warn", word("unreachable", error.message));
  }
}

// Queues once with the run going on; the input is as before afterwards.
async function goOn(node) {
  const choice = node.widgets?.find((widget) => widget.name === "kept_run");
  if (!choice) return;
  const before = choice.value;
  choice.value = "go on";
  try {
    await app.queuePrompt(0, 1);
  } finally {
    choice.value = before;
  }
}

function addButtons(node) {
  const buttons = { "stop and keep": [word("stop"), stopAndKeep], "go on": [word("goOn"), goOn] };
  for (const [name, [label, act]] of Object.entries(buttons)) {
    const button = node.addWidget("button", name, null, () => act(node), { serialize: false });
    button.label = label;
  }
}

// Messages ----------------------------------------------------------------------------------------------

async function warnOfConflicts() {
  const answer = await api.fetchApi("/oneshot/conflicts");
  if (!answer.ok) return;
  const { overridden, replaced } = await answer.json();
  for (const [id, pack] of Object.entries(overridden)) toast("warn", word("overridden", pack, id));
  for (const [id, pack] of Object.entries(replaced)) toast("warn", word("replaced", pack, id));
}

function onInterrupted({ detail }) {
  if (KEPT.has(detail?.node_type)) toast("info", word("kept"));
}

app.registerExtension({
  name: "oneshot.stylegan",
  init() {
    speak(app.ui?.settings?.getSettingValue?.("Comfy.Locale"));
  },
  async setup() {
    api.addEventListener("oneshot.loss", onTold);
    api.addEventListener("oneshot.status", onTold);
    app.canvas?.canvas?.addEventListener("subgraph-opened", onOpened);
    api.addEventListener("executed", onExecuted);
    api.addEventListener("execution_cached", onCached);
    api.addEventListener("execution_interrupted", onInterrupted);
    api.addEventListener("reconnected", softly(() => restore({ missed: true })));
    await softly(warnOfConflicts)();
  },
  nodeCreated: softly((node) => {
    if (!OWN.has(node.comfyClass)) return;
    nameGraph();
    fold(node, () => app.canvas?.graph === node.graph);
    if (node.comfyClass === "OneShotAdapt") addButtons(node);
    const made = addPanel(node);
    if (node.comfyClass === "OneShotDemoTarget") showTarget(node, api, made.picture);
    if (node.comfyClass === "OneShotFrameTarget") made.lead(showFrame(node, api, app, () => given(node), () => panels.has(node)));
  }),
  afterConfigureGraph: softly(() => restore()),
});
