# For make's recipes that set something up, which say what took how long. A failed step ends the recipe.
#
#   source scripts/steps.sh; step NAME COMMAND...; step ...; took WHAT

set -e
steps_taken=

step() {
    local began=$SECONDS
    echo "  $1"
    "${@:2}"
    steps_taken+=", $1 $((SECONDS - began))"
}

# Prints the seconds since the recipe's shell began, and what each step of them took.
took() {
    echo "$1 took $SECONDS s${steps_taken/,/:}"
}
