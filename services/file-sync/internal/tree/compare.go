package tree

import "errors"

// ErrStale says that a target's file is not the one that a change of mode, owner or time was meant for: the content has
// to be sent.
var ErrStale = errors.New("the content differs")

// Rules say what counts as a difference.
type Rules struct {
	Owners bool // owner and group count; unset where the target's side may not change them
}

// Difference is what has to be done to have so that it becomes want.
type Difference struct {
	Delete  []string // topmost paths to remove with all that is in them
	Deletes int      // how many members that removes, those in the directories included
	Make    []Entry  // directories and symlinks to make, parents first
	Content []Entry  // files whose content is to be sent
	Meta    []Entry  // members that only need mode, owner or time set
}

// Empty reports whether there is nothing to do.
func (d Difference) Empty() bool {
	return len(d.Delete)+len(d.Make)+len(d.Content)+len(d.Meta) == 0
}

// Compare tells in what have differs from want. Both must be sorted. A path whose type differs is both deleted and
// made; where a directory gives way, its members are deleted with it.
func Compare(want, have Snapshot, rules Rules) Difference {
	var d Difference
	doomed := make(map[string]bool) // directories that are removed
	remove := func(e Entry) {
		d.Deletes++
		if e.Type == Dir {
			doomed[e.Path] = true
		}
		if !doomed[Parent(e.Path)] {
			d.Delete = append(d.Delete, e.Path)
		}
	}
	add := func(e Entry) {
		if e.Type == File {
			d.Content = append(d.Content, e)
		} else {
			d.Make = append(d.Make, e)
		}
	}
	i, j := 0, 0
	for i < len(want) || j < len(have) {
		switch {
		case j == len(have) || i < len(want) && order(want[i].Path, have[j].Path) < 0:
			add(want[i])
			i++
		case i == len(want) || order(want[i].Path, have[j].Path) > 0:
			remove(have[j])
			j++
		default:
			w, h := want[i], have[j]
			switch {
			case w.Type != h.Type:
				remove(h)
				add(w)
			case w.Type == File && !sameContent(w, h):
				d.Content = append(d.Content, w)
			case w.Type == Symlink && w.Target != h.Target:
				d.Make = append(d.Make, w)
			case !sameMeta(w, h, rules):
				d.Meta = append(d.Meta, w)
			}
			i++
			j++
		}
	}
	return d
}

// sameMeta compares what is neither type nor content. Symlinks have no mode of their own (symlink(7)).
func sameMeta(w, h Entry, rules Rules) bool {
	if rules.Owners && (w.UID != h.UID || w.GID != h.GID) {
		return false
	}
	if w.Type != Symlink && w.Mode&ModeMask != h.Mode {
		return false
	}
	return w.Mtime == h.Mtime
}

// Brake is the rule that keeps a wrong source from emptying a target: a comparison that nobody saw coming may not
// delete more than half of a target that has grown to some size.
type Brake struct {
	MinEntries int // smaller targets are never held
}

// Holds reports whether deleting deletes of total members must wait for a person. watched says that the source has
// watched its folder without a gap since target and source were equal: then the deletes were made by somebody and are
// obeyed. released is how many a person has agreed to.
func (b Brake) Holds(deletes, total int, watched bool, released int) bool {
	return !watched && total >= b.MinEntries && deletes > total/2 && deletes > released
}
