# bash completion for byway(8). `byway complete` knows the words.

_byway() {
    local line=${COMP_LINE:0:COMP_POINT} words current cut word
    # Split by spaces alone: bash also splits at `:` and `=`, so in the middle of an IPv6 address.
    read -ra words <<<"$line"
    [[ $line != *[[:space:]] ]] || words+=("")
    current=${words[-1]}
    # What bash takes for a word begins after these, so it must not be in what is put in.
    cut=${current%"${current##*[:=]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r word _; do
        if [[ $word == :files ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
        fi
        COMPREPLY+=("${word#"$cut"}")
    done < <("$1" complete -- "${words[@]:1}" 2>/dev/null)
}

complete -F _byway byway
