// A recording holds what a page held, and a page can ask for more than pictures and styles. The
// Content Security Policy keeps those out; what it does not speak of is taken out here.

const ELEMENT = 2
const HINTS = /\b(dns-prefetch|preconnect|prefetch|preload|modulepreload|prerender|manifest|icon)\b/i
const FRAMES = ['iframe', 'frame', 'object', 'embed', 'portal']

/** Takes out of rrweb's events what would make the browser ask for something. */
export function defuse(events) {
  const links = new Set()

  function visit(node) {
    if (node.type === ELEMENT) {
      const { tagName, attributes } = node
      if (tagName === 'link' && (attributes.href || attributes.rel)) {
        if (HINTS.test(attributes.rel ?? '') || !attributes.rel) {
          links.add(node.id)
          delete attributes.href
          delete attributes.imagesrcset
        }
      }
      if (tagName === 'meta') delete attributes['http-equiv']
      if (FRAMES.includes(tagName)) for (const name of ['src', 'srcdoc', 'data']) delete attributes[name]
      delete attributes.ping
    }
    node.childNodes?.forEach(visit)
  }

  for (const { type, data } of events) {
    if (type === 2) visit(data.node)
    if (type !== 3 || data.source !== 0) continue
    for (const { node } of data.adds ?? []) visit(node)
    for (const { id, attributes } of data.attributes ?? []) {
      if (links.has(id)) for (const name of ['href', 'rel', 'imagesrcset']) delete attributes[name]
      for (const name of ['srcdoc', 'ping']) delete attributes[name]
      if (HINTS.test(attributes.rel ?? '')) delete attributes.rel
    }
  }
  return events
}
