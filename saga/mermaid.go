package saga

import (
	"fmt"
	"strings"
)

// Mermaid draws the definition as a Mermaid flowchart: steps and groups in
// order, the pivot as a diamond, compensations as dotted edges. A faulty
// definition is drawn as far as it goes; [Register] says what is wrong.
func (d Definition[S]) Mermaid() string {
	c := &compiler{saga: d.Name, seen: make(map[string]bool)}
	var b strings.Builder
	b.WriteString("flowchart TD\n")
	b.WriteString("  started([started])\n")
	previous := []string{"started"}
	for i, s := range d.Steps {
		if s == nil {
			continue
		}
		leaves := s.compile(c)
		indent := "  "
		if g, ok := s.(*Group[S]); ok {
			fmt.Fprintf(&b, "  subgraph group%d[%s]\n", i, g.Name)
			indent = "    "
		}
		var nodes []string
		for _, l := range leaves {
			id := "s_" + strings.ReplaceAll(l.name, "-", "_")
			nodes = append(nodes, id)
			label := fmt.Sprintf("%s<br/>%s", l.name, l.op)
			switch {
			case l.kindless:
				fmt.Fprintf(&b, "%s%s([\"%s\"])\n", indent, id, label)
			case l.kind == Pivot:
				fmt.Fprintf(&b, "%s%s{\"%s, pivot\"}\n", indent, id, label)
			case l.kind == Retriable:
				fmt.Fprintf(&b, "%s%s[[\"%s, retriable\"]]\n", indent, id, label)
			default:
				fmt.Fprintf(&b, "%s%s[\"%s\"]\n", indent, id, label)
			}
		}
		if indent != "  " {
			b.WriteString("  end\n")
		}
		for _, from := range previous {
			for _, to := range nodes {
				fmt.Fprintf(&b, "  %s --> %s\n", from, to)
			}
		}
		for j, l := range leaves {
			if !l.undoable() {
				continue
			}
			fmt.Fprintf(&b, "  %s -. undo .-> %s_undo[\"undo %s\"]\n", nodes[j], nodes[j], l.name)
		}
		previous = nodes
	}
	b.WriteString("  completed([completed])\n")
	for _, from := range previous {
		fmt.Fprintf(&b, "  %s --> completed\n", from)
	}
	return b.String()
}
