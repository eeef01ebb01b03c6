// What the page says, in the languages of the pack. Notes and errors come from the server, in English.

const WORDS = {
  en: {
    working: "working",
    step: "step {0} of {1}",
    left: "{0} left",
    done: "done in {0}",
    cached: "unchanged since an earlier run",
    cancelled: "cancelled",
    kept: "cancelled; what was done is kept, and Run goes on from there",
    stop: "stop and keep",
    goOn: "go on",
    stopping: "stopping after this step; the generator so far is the result",
    unreachable: "the server could not be reached: {0}",
    more: "advanced inputs",
    fewer: "hide advanced inputs",
    choose: "use the generator of step {0}; nothing is trained for it",
    source: "source",
    adapted: "adapted",
    before: "before",
    edited: "edited",
    slider: "where one picture ends and the other begins",
    next: "next picture",
    toggle: "click to show or hide",
    scale: "Each curve lies between its own least and greatest value.",
    frame: "drag to move the square, turn the wheel to zoom; or the arrow keys, + and -",
    overridden: "{0} also has a node {1} and loaded later: workflows of this pack will not work. Disable one of the two packs.",
    replaced: "its node {1} replaces the one of {0}: workflows made for that pack will not work. Disable one of the two packs.",
  },
  zh: {
    working: "运行中",
    step: "第 {0} 步，共 {1} 步",
    left: "还剩 {0}",
    done: "用时 {0} 完成",
    cached: "与之前的运行相同，未重新执行",
    cancelled: "已取消",
    kept: "已取消；进度已保留，再次运行会从这里继续",
    stop: "停止并保留",
    goOn: "继续训练",
    stopping: "完成这一步后停止；到此为止的生成器就是结果",
    unreachable: "无法连接服务器：{0}",
    more: "高级输入",
    fewer: "隐藏高级输入",
    choose: "使用第 {0} 步的生成器；不会重新训练",
    source: "源",
    adapted: "适配后",
    before: "编辑前",
    edited: "编辑后",
    slider: "两张图片的分界位置",
    next: "下一张",
    toggle: "点击显示或隐藏",
    scale: "每条曲线按自身的最小值和最大值缩放。",
    frame: "拖动以移动取景框，滚轮缩放；也可用方向键和 + -",
    overridden: "{0} 也有节点 {1} 且加载更晚：本节点包的工作流将无法运行。请停用其中一个。",
    replaced: "节点 {1} 取代了 {0} 的同名节点：为该节点包制作的工作流将无法运行。请停用其中一个。",
  },
};

let language = "en";

/** Choose a language by ComfyUI's name of it, such as zh or zh-TW; unknown ones are read in English. */
export function speak(locale) {
  const name = String(locale ?? "");
  language = name in WORDS ? name : (name.split("-")[0] in WORDS ? name.split("-")[0] : "en");
}

/** A phrase with its places filled. */
export function word(name, ...values) {
  return WORDS[language][name].replace(/\{(\d)\}/g, (_, at) => values[at]);
}

/** Names of the phrases per language, for tests. */
export function phrases() {
  return Object.fromEntries(Object.entries(WORDS).map(([name, found]) => [name, Object.keys(found)]));
}
