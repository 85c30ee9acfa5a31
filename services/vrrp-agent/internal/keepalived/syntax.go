package keepalived

import (
	"slices"
	"strings"

	"github.com/twotier/twotier/services/internal/importing"
)

// maxDepth is how deep blocks may lie in each other; keepalived needs four.
const maxDepth = 8

// statement is a line of the language: words, and what stands in braces behind them.
type statement struct {
	line     *importing.Line
	words    []string
	children []*statement
}

func (s *statement) word(n int) string {
	if n < len(s.words) {
		return s.words[n]
	}
	return ""
}

// each calls do for the statement and all that lies in it.
func (s *statement) each(do func(*statement)) {
	do(s)
	for _, child := range s.children {
		child.each(do)
	}
}

// leave says of the statement and of all that lies in it that nothing is taken.
func (s *statement) leave(format string, args ...any) {
	s.each(func(inner *statement) { inner.line.LeftOut(format, args...) })
}

// ignore says of the statement and of all that lies in it that nothing is lost.
func (s *statement) ignore(format string, args ...any) {
	s.each(func(inner *statement) { inner.line.Ignored(format, args...) })
}

// parse takes a text apart (keepalived.conf(5): words, quotes, braces, comments that begin with ! or #).
func parse(lines []*importing.Line) (top []*statement) {
	root := &statement{}
	open := []*statement{root}
	for _, line := range lines {
		words, comment := split(line.Text)
		show(line, words, comment)
		if len(words) == 0 {
			line.Ignored("empty or a comment")
			continue
		}
		if !slices.ContainsFunc(words, func(w string) bool { return w != "{" && w != "}" }) {
			line.Ignored("it begins or ends a block")
		}
		var pending []string
		flush := func() *statement {
			if len(pending) == 0 {
				return nil
			}
			s := &statement{line: line, words: pending}
			inner := open[len(open)-1]
			inner.children = append(inner.children, s)
			pending = nil
			return s
		}
		for _, word := range words {
			switch word {
			case "{":
				s := flush()
				if within := open[len(open)-1].children; s == nil && len(within) > 0 {
					s = within[len(within)-1] // the brace stands on a line of its own
				}
				if s == nil || len(open) == maxDepth {
					line.LeftOut("a block that nothing begins, or blocks too deep in each other")
					s = &statement{line: line}
				}
				open = append(open, s)
			case "}":
				flush()
				if len(open) == 1 {
					line.LeftOut("a brace that closes nothing")
					continue
				}
				open = open[:len(open)-1]
			default:
				pending = append(pending, word)
			}
		}
		flush()
	}
	return root.children
}

// split takes a line apart. Braces are words of their own.
func split(text string) (words []string, comment string) {
	for {
		text = strings.TrimLeft(text, " \t\r")
		if text == "" {
			return words, ""
		}
		if text[0] == '!' || text[0] == '#' {
			return words, text
		}
		end := strings.IndexAny(text, " \t\r{}")
		switch {
		case text[0] == '"' || text[0] == '\'':
			// An open quote ends with its line.
			inside, behind, _ := strings.Cut(text[1:], text[:1])
			words, text = append(words, inside), behind
			continue
		case end == 0:
			end = 1
		case end < 0:
			end = len(text)
		}
		words, text = append(words, text[:end]), text[end:]
	}
}

// show hides passwords: what stands behind a word such as auth_pass, and words that speak of one.
func show(line *importing.Line, words []string, comment string) {
	shown := slices.Clone(words)
	secret, hidden := false, false
	for i, word := range words {
		lower := strings.ToLower(word)
		switch {
		case word == "{" || word == "}":
			secret = false
		case secret, strings.Contains(lower, "pass") && strings.ContainsAny(word, " ="):
			shown[i], hidden = "***", true
		case strings.Contains(lower, "pass") && !(i > 0 && words[i-1] == "auth_type"), lower == "password":
			secret = true
		}
	}
	if importing.Secretive(comment) {
		comment, hidden = "# ***", true
	}
	if hidden {
		line.Show(strings.TrimSpace(strings.Join(shown, " ") + " " + comment))
	}
}
