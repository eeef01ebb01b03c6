// Advanced inputs fold away in classic nodes too; Vue nodes do it by themselves, by `showAdvanced` as well.

import { word } from "./words.mjs";

/**
 * Hide a classic node's advanced inputs behind a button, unless they are linked.
 *
 * @param {object} node - its widgets say by `options.advanced` or `advanced` which they are.
 * @param {() => boolean} isOpen - whether the node's graph is on the canvas: of one inside, subgraph nodes show inputs.
 */
export function fold(node, isOpen) {
  const folded = (node.widgets ?? []).filter((one) => one.options?.advanced || one.advanced);
  if (!folded.length) return;
  const linked = (widget) => node.inputs?.some((input) => input.widget?.name === widget.name && input.link != null);
  for (const widget of folded) {
    // A property that answers anew each time. Vue nodes do not ask it, but their least height counts it.
    Object.defineProperty(widget, "hidden", {
      configurable: true,
      get: () => isOpen() && !node.showAdvanced && !linked(widget),
      set: () => {},
    });
  }
  const title = () => (node.showAdvanced ? `▾ ${word("fewer")}` : `▸ ${word("more")} (${folded.length})`);
  const button = node.addWidget("button", "advanced", null, () => {
    node.showAdvanced = !node.showAdvanced;
    button.label = title();
    const [width, height] = node.size;
    const least = node.computeSize()[1];
    node.setSize([width, node.showAdvanced ? Math.max(height, least) : Math.min(height, Math.max(least, before))]);
    node.setDirtyCanvas?.(true, true);
  }, { serialize: false, canvasOnly: true });
  let before = node.size?.[1] ?? 0;
  button.label = title();
  return button;
}
