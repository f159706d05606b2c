// Draws the figures of a page in the reader's theme and width. plotly.min.js is fetched only where there is a chart.
"use strict";
(() => {
  const root = document.currentScript.src.replace(/book\.js.*$/, "");
  const charts = [];

  const mode = () => (document.documentElement.dataset.theme === "dark" ? "dark" : "light");

  // On a narrow screen the words are smaller.
  function layoutFor(element, layout) {
    const narrow = element.clientWidth < 480;
    const font = narrow ? { size: 12 } : {};
    return { ...layout, autosize: true, template: window.mlkitTemplates[mode()], font: { ...layout.font, ...font } };
  }

  // Plotly draws menus and sliders into the picture, where no key reaches them: a page has the browser's own instead.
  function control(element, words, kind, choices, chosen) {
    const label = document.createElement("label");
    const input = document.createElement(kind);
    const said = document.createElement("span"); // not <output>: a label would name that instead of the input
    const choose = () => {
      const { label: name, method, args } = choices[input.value];
      said.textContent = input.ariaValueText = name;
      window.Plotly[method](element, ...structuredClone(args));
    };
    if (kind === "select") {
      choices.forEach((choice, i) => input.add(new Option(choice.label, i)));
      label.append(`${words}: `, input);
    } else {
      Object.assign(input, { type: "range", min: 0, max: choices.length - 1 });
      label.append(words, said, input);
    }
    input.value = chosen ?? 0;
    said.textContent = input.ariaValueText = choices[input.value].label;
    input.addEventListener("input", choose);
    return label;
  }

  function addControls(element, layout) {
    const found = [
      ...(layout.updatemenus ?? []).map((menu) => control(element, menu.name, "select", menu.buttons, menu.active)),
      ...(layout.sliders ?? []).map((slider) =>
        control(element, slider.currentvalue.prefix, "input", slider.steps, slider.active)),
    ];
    if (!found.length) return;
    for (const name of ["updatemenus", "sliders", "margin"]) delete layout[name];
    const row = document.createElement("div");
    row.className = "controls";
    row.append(...found);
    element.closest("figure").prepend(row);
  }

  function draw(element) {
    const figure = JSON.parse(element.querySelector("script").textContent);
    addControls(element, figure.layout);
    // What must keep its proportions gets lower where the page gets narrower.
    if (figure.layout.yaxis?.scaleanchor) {
      const { t = 40, b = 56 } = figure.layout.margin ?? {};
      figure.layout.height = t + b + (figure.layout.height - t - b) * Math.min(1, element.clientWidth / 700);
      element.style.height = `${figure.layout.height}px`;
    }
    const config = { displayModeBar: false, responsive: true, scrollZoom: false };
    const chart = { element, layout: figure.layout, mode: mode() };
    charts.push(chart);
    return window.Plotly.newPlot(element, figure.data, layoutFor(element, figure.layout), config);
  }

  function retheme() {
    for (const chart of charts) {
      if (chart.mode === mode()) continue;
      chart.mode = mode();
      window.Plotly.relayout(chart.element, { template: window.mlkitTemplates[chart.mode] });
    }
  }

  function load(source) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      Object.assign(script, { src: root + source, onload: resolve, onerror: reject });
      document.head.append(script);
    });
  }

  async function start() {
    const elements = [...document.querySelectorAll("figure.mlkit .chart")];
    if (elements.length) {
      await load("plotly.min.js");
      await Promise.all(elements.map(draw));
      new MutationObserver(retheme).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    }
    document.documentElement.dataset.charts = elements.length; // every chart is drawn
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
