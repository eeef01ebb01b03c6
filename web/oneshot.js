// One-Shot StyleGAN in the browser: loss charts, "stop and keep", a warning when another pack took an id.
// Nodes work without any of it.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { mergePoints } from "./curves.mjs";
import { lossPlot } from "./loss_plot.mjs";

const OPTIMISING = new Set(["OneShotAdapt", "CLIPLatentSearch", "StyleCLIPEdit"]);
const STOPPABLE = new Set(["OneShotAdapt"]);
const TITLE = "One-Shot StyleGAN";
const charts = new Map(); // node -> {curves, prompt, plot}

function toast(severity, detail) {
  app.extensionManager?.toast?.add({ severity, summary: TITLE, detail, life: severity === "warn" ? 20000 : 6000 });
}

// Inside subgraphs an execution id is "outer:inner"; the node on the canvas knows its last part.
function executionId(node) {
  const known = [...charts.keys()].includes(node) ? charts.get(node).execution : undefined;
  return String(known ?? node.id);
}

function chartOf(id) {
  const parts = String(id).split(":");
  for (const [node, chart] of charts) {
    if (String(node.id) === parts[parts.length - 1]) return chart;
  }
  return undefined;
}

function addChart(node) {
  const plot = lossPlot();
  const chart = { curves: {}, prompt: "", execution: undefined, plot };
  charts.set(node, chart);
  node.addDOMWidget("oneshot_losses", "oneshot_loss_plot", plot.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => plot.height,
    getMaxHeight: () => plot.height,
  });
  const removed = node.onRemoved;
  node.onRemoved = function (...args) {
    plot.stop();
    charts.delete(node);
    return removed?.apply(this, args);
  };
}

async function stopAndKeep(node) {
  try {
    const answer = await api.fetchApi("/oneshot/stop_and_keep", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ node: executionId(node) }),
    });
    if (answer.ok) toast("info", "stopping after this step; the generator so far is the result");
    else toast("warn", (await answer.json()).error);
  } catch (error) {
    toast("warn", `the server could not be reached: ${error.message}`);
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

async function warnOfConflicts() {
  const answer = await api.fetchApi("/oneshot/conflicts");
  if (!answer.ok) return;
  const { overridden, replaced } = await answer.json();
  for (const [id, pack] of Object.entries(overridden)) {
    toast("warn", `${pack} also has a node ${id} and loaded later: workflows of this pack will not work. Disable one of the two packs.`);
  }
  for (const [id, pack] of Object.entries(replaced)) {
    toast("warn", `its node ${id} replaces the one of ${pack}: workflows made for that pack will not work. Disable one of the two packs.`);
  }
}

function onPoints({ detail }) {
  const chart = chartOf(detail.node);
  if (!chart) return;
  if (chart.prompt !== detail.prompt_id) Object.assign(chart, { curves: {}, prompt: detail.prompt_id });
  chart.execution = detail.node;
  chart.curves = mergePoints(chart.curves, detail.points);
  chart.plot.draw(chart.curves, detail.steps, detail.eta);
}

function onExecuted({ detail }) {
  const chart = chartOf(detail?.display_node ?? detail?.node);
  const whole = detail?.output?.losses?.[0];
  if (!chart || !whole) return;
  chart.curves = mergePoints({}, whole); // thinned by the node, {name: [[step, value], ...]}
  chart.plot.draw(chart.curves, 0);
}

function onInterrupted({ detail }) {
  if (OPTIMISING.has(detail?.node_type) && detail.node_type !== "StyleCLIPEdit") {
    toast("info", "cancelled; what was done is kept, and Run goes on from there");
  }
}

app.registerExtension({
  name: "oneshot.stylegan",
  async setup() {
    api.addEventListener("oneshot.loss", onPoints);
    api.addEventListener("executed", onExecuted);
    api.addEventListener("execution_interrupted", onInterrupted);
    try {
      await warnOfConflicts();
    } catch (error) {
      console.warn(`${TITLE}: could not ask for conflicting nodes`, error);
    }
  },
  nodeCreated(node) {
    if (!OPTIMISING.has(node.comfyClass)) return;
    try {
      if (STOPPABLE.has(node.comfyClass)) {
        node.addWidget("button", "stop and keep", null, () => stopAndKeep(node), { serialize: false });
        node.addWidget("button", "go on", null, () => goOn(node), { serialize: false });
      }
      addChart(node);
    } catch (error) {
      console.warn(`${TITLE}: no chart on ${node.comfyClass}`, error);
    }
  },
});
