// What Netron makes of an ONNX file, without its window.
//
//     node tests/frontends/netron.mjs NETRON MODEL.onnx
//
// NETRON: the folder netron/ of PyPI's wheel (pip download --no-deps netron, unzip).  Exits with 1
// where an operator is known neither to Netron nor as a function of the file, an edge leads nowhere
// or a weight cannot be read.

import * as fs from 'fs';
import * as path from 'path';
import { pathToFileURL } from 'url';

const [folder, file] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.resolve(folder, name)));
globalThis.window = { addEventListener() {} };
const { ModelFactoryService } = await load('view.js');
const { BinaryStream } = await load('base.js');

const context = {
    identifier: path.basename(file),
    stream: new BinaryStream(fs.readFileSync(file)),
    entries: new Map(),
    require: (name) => load(`${name}.js`),
    asset: (name) => fs.promises.readFile(path.join(folder, name), 'utf-8'),
    fetch: (name) => new BinaryStream(fs.readFileSync(path.join(path.dirname(file), name))),
    error: (error) => { throw error; },
};
const host = { require: (name) => load(`${name}.js`), environment: () => null, event() {} };
const model = await new ModelFactoryService(host).open(context);
const [graph] = model.modules;

const own = new Set(model.functions.map((each) => `${each.module}.${each.name}`));
const faults = [];
const counts = new Map();

const names = (ends) => ends.flatMap((end) => end.value).map((value) => value.name);
const bodies = (node) => (node.attributes || []).filter((each) => each.type === 'graph');
function check(graph, outside) {
    const made = new Set([...outside, ...names(graph.inputs)]);
    graph.nodes.forEach((node) => names(node.outputs).forEach((name) => made.add(name)));
    for (const node of graph.nodes) {
        const { module, name, category, outputs } = node.type;
        const kind = own.has(`${module}.${name}`) ? 'function' : outputs ? 'standard' : 'unknown';
        const label = `${module}.${name} (${kind}${category ? `, ${category}` : ''})`;
        counts.set(label, (counts.get(label) || 0) + 1);
        if (kind === 'unknown') {
            faults.push(`${name}: no such operator`);
        }
        for (const value of node.inputs.flatMap((input) => input.value)) {
            if (value.initializer && (!value.initializer.type || !value.initializer.values)) {
                faults.push(`${name}: ${value.name} cannot be read`);
            }
            if (!value.initializer && !made.has(value.name)) {
                faults.push(`${name}: ${value.name} comes from nowhere`);
            }
        }
        bodies(node).forEach((body) => check(body.value, made));
    }
}

[graph, ...model.functions].forEach((each) => check(each, []));
for (const value of [...graph.inputs, ...graph.outputs].flatMap((each) => each.value)) {
    console.log(`${value.name}: ${value.type}`);
    if (!value.type) {
        faults.push(`${value.name} has no type`);
    }
}
[...counts].sort().forEach(([label, count]) => console.log(`${count} x ${label}`));
console.log(`${model.format}, ${graph.nodes.length} nodes, ${model.functions.length} functions`);
faults.forEach((fault) => console.log(`fault: ${fault}`));
process.exit(faults.length ? 1 : 0);
