package forum

import "strconv"

// How much one page shows.
const (
	ThreadsPerPage = 20
	PostsPerPage   = 10
	// MaxPage bounds how far an offset can reach into a table.
	MaxPage = 100000
)

// Page is one page of a longer list. The zero value is a list without entries.
type Page struct {
	Number int // 1 is the first
	Size   int // entries per page
	Total  int // entries in the whole list
}

// ParsePage reads the page parameter of an address: whatever is not a number of a page means the first.
func ParsePage(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 1
	}
	return min(n, MaxPage)
}

// NewPage is page number of a list with total entries; past the end it is the last page.
func NewPage(number, size, total int) Page {
	p := Page{Number: max(number, 1), Size: size, Total: total}
	p.Number = min(p.Number, p.Last())
	return p
}

// Last is the number of the last page, at least 1.
func (p Page) Last() int {
	if p.Size < 1 || p.Total < 1 {
		return 1
	}
	return (p.Total + p.Size - 1) / p.Size
}

// Offset is how many entries come before this page.
func (p Page) Offset() int { return (p.Number - 1) * p.Size }

// HasPrevious reports whether there is a page before this one.
func (p Page) HasPrevious() bool { return p.Number > 1 }

// HasNext reports whether there is a page after this one.
func (p Page) HasNext() bool { return p.Number < p.Last() }

// Previous is the number of the page before.
func (p Page) Previous() int { return p.Number - 1 }

// Next is the number of the page after.
func (p Page) Next() int { return p.Number + 1 }

// PageOf is the page on which entry number n (1 is the first) of a list stands.
func PageOf(n, size int) int { return (max(n, 1)-1)/size + 1 }
