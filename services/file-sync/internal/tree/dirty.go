package tree

import "time"

// Settle is how long a file that is still being written may rest before its present state is sent.
type Settle struct {
	Quiet time.Duration // this long after the last write
	Limit time.Duration // but not later than this after the first
}

// Candidate is a path whose copy may be old.
type Candidate struct {
	Path    string
	Content bool // the content may differ, not only mode, owner or time
	Left    bool // a directory was moved away from here; what was in it made no changes of its own
	Tries   int  // how often it was tried in vain
}

type pending struct {
	first, due time.Time
	content    bool
	left       bool
	tries      int
}

// Dirty is the set of paths whose copy may be old. It is bounded: when more paths come than it can hold, it forgets them
// all and says instead that the whole folder must be compared. It is not safe for use by several goroutines.
type Dirty struct {
	limit   int
	settle  Settle
	paths   map[string]pending
	compare bool
}

// NewDirty makes an empty set for at most limit paths.
func NewDirty(limit int, settle Settle) *Dirty {
	return &Dirty{limit: limit, settle: settle, paths: make(map[string]pending)}
}

// Mark says that path changed and rests: it may be sent at once.
func (d *Dirty) Mark(path string, content bool, now time.Time) {
	p := d.paths[path]
	p.content = p.content || content
	d.put(path, p, now, now)
}

// Left says that a directory was moved away from path: members that its copy has there may belong nowhere.
func (d *Dirty) Left(path string, now time.Time) {
	p := d.paths[path]
	p.content, p.left = true, true
	d.put(path, p, now, now)
}

// Writing says that path is being written: it is sent when it rests, or when it has not rested for too long.
func (d *Dirty) Writing(path string, now time.Time) {
	p := d.paths[path]
	p.content = true
	due := now.Add(d.settle.Quiet)
	if !p.first.IsZero() {
		if last := p.first.Add(d.settle.Limit); due.After(last) {
			due = last
		}
	}
	d.put(path, p, now, due)
}

// Retry takes back a candidate that could not be sent, to be tried again at the time due.
func (d *Dirty) Retry(c Candidate, now, due time.Time) {
	p, waiting := d.paths[c.Path]
	p.content = p.content || c.Content
	p.left = p.left || c.Left
	p.tries = max(p.tries, c.Tries)
	if waiting && p.due.Before(due) {
		due = p.due
	}
	d.put(c.Path, p, now, due)
}

func (d *Dirty) put(path string, p pending, now, due time.Time) {
	if d.compare {
		return
	}
	if p.first.IsZero() {
		p.first = now
		if len(d.paths) >= d.limit {
			d.Overflow()
			return
		}
	}
	p.due = due
	d.paths[path] = p
}

// Overflow says that changes were missed: the whole folder must be compared.
func (d *Dirty) Overflow() {
	clear(d.paths)
	d.compare = true
}

// Clear empties the set, because the whole folder is about to be read.
func (d *Dirty) Clear() {
	clear(d.paths)
	d.compare = false
}

// MustCompare reports whether the whole folder must be compared.
func (d *Dirty) MustCompare() bool { return d.compare }

// Len is the number of waiting paths.
func (d *Dirty) Len() int { return len(d.paths) }

// Take removes and returns the paths that are due, at most n, in no order; and the time at which the next one is due,
// zero when none waits.
func (d *Dirty) Take(now time.Time, n int) (due []Candidate, next time.Time) {
	for path, p := range d.paths {
		if !p.due.After(now) && len(due) < n {
			due = append(due, Candidate{Path: path, Content: p.content, Left: p.left, Tries: p.tries})
			delete(d.paths, path)
			continue
		}
		if next.IsZero() || p.due.Before(next) {
			next = p.due
		}
	}
	return due, next
}
