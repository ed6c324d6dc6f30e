// A recording holds what a page held, and a page can ask for more than pictures and styles. The
// Content Security Policy keeps those out; what it does not speak of is taken out here.
// Names are compared as the DOM takes them: whatever they are written like, it folds their case.

// What loads or hints at a document of its own, and by which attributes. That is each link too:
// the stylesheets that can be shown are those that the recorder has put into the recording.
const LOADING = ['link', 'iframe', 'frame', 'object', 'embed', 'portal']
const LOADED = ['href', 'rel', 'src', 'data']

// What no element keeps.
const NEVER = ['http-equiv', 'srcdoc', 'imagesrcset', 'ping']

function drop(attributes, names) {
  for (const name of Object.keys(attributes ?? {}))
    if (names.includes(name.toLowerCase())) delete attributes[name]
}

/** Takes out of rrweb's events what would make the browser ask for something. */
export function defuse(events) {
  // By their IDs, whenever those have belonged to such an element: a change may come before it.
  const loading = new Set()

  function visit(node) {
    if ('tagName' in node) {
      // In lower case rrweb knows it too, and makes no script of a script.
      node.tagName = String(node.tagName).toLowerCase()
      drop(node.attributes, NEVER)
      if (LOADING.includes(node.tagName)) {
        loading.add(node.id)
        drop(node.attributes, LOADED)
      }
    }
    node.childNodes?.forEach(visit)
  }

  const mutations = events.filter(({ type, data }) => type === 3 && data.source === 0)
  for (const { type, data } of events) if (type === 2) visit(data.node)
  for (const { data } of mutations) for (const { node } of data.adds ?? []) visit(node)
  for (const { data } of mutations)
    for (const { id, attributes } of data.attributes ?? []) {
      drop(attributes, NEVER)
      if (loading.has(id)) drop(attributes, LOADED)
    }
  return events
}
