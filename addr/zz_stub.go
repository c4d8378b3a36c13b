package addr

// STUB of the grammar (another branch has the real one, same names); deleted on merge. Do not edit.

type Word struct {
	Text string
	Pos  int
	Raw  string
}
type OptionWord struct {
	Name, Value string
	HasValue    bool
	Pos         int
}

func (w OptionWord) Text() string { return w.Name }

type Single struct {
	Text       string
	Pos        int
	Keyword    string
	KeywordPos int
	Params     []Word
	Options    []OptionWord
}
type Spec struct {
	Text  string
	Parts []Single
}

func Parse(arg string) (*Spec, error)            { panic("stub") }
func SplitCommand(s string) ([]string, error)    { panic("stub") }
func SplitValue(s string) []string               { panic("stub") }
func ParseDalan(s string) ([]byte, error)        { panic("stub") }
func Suggest(word string, among []string) string { return "" }
